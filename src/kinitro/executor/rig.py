"""Everything that episodes run on: a stage, the policies' files and servers, and the environments' servers."""

import importlib.util
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from kinitro.backends.base import Limits
from kinitro.deployments import DeploymentManager, DeploymentSettings, SnapshotSource, SnapshotStore
from kinitro.environments.base import EnvironmentSpec
from kinitro.environments.workers import EnvironmentWorkers
from kinitro.executor.sizes import parse_size
from kinitro.executor.stage import Stage, open_stage
from kinitro.settings import ExecutorSettings, home_directory


@dataclass(frozen=True)
class Rig:
    """What an executor, or a replay, runs episodes on."""

    stage: Stage
    store: SnapshotStore
    deployments: DeploymentManager
    workers: EnvironmentWorkers


@asynccontextmanager
async def open_rig(
    settings: ExecutorSettings,
    environments: Sequence[EnvironmentSpec],
    environment_server: Sequence[str] | None = None,
    *,
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[Rig]:
    """A rig that serves `environments`; leaving the block stops every process that was started on it.

    `environment_server` replaces the usual command (with `{host}` and `{port}`); `variables` are what environment
    servers get besides. Raises `ConfigurationError` when something is missing, or policies would not be isolated.
    """
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(open_stage(settings, environments, environment_server))
        store = SnapshotStore(
            home_directory() / "snapshots", _hub(settings), max_bytes=int(settings.snapshot_cache_gb * 10**9)
        )
        deployments = await stack.enter_async_context(
            DeploymentManager(stage.backend, store, _deployment_settings(settings, stage))
        )
        launch = replace(stage.environments, variables=variables or {})
        workers = await stack.enter_async_context(EnvironmentWorkers(stage.backend, stage.max_concurrent, launch))
        yield Rig(stage, store, deployments, workers)


def _hub(settings: ExecutorSettings) -> SnapshotSource | None:
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from kinitro.deployments.hub import HuggingFaceHub  # noqa: PLC0415 - optional, and slow to import

    return HuggingFaceHub(settings.miner_hf_token)


def _deployment_settings(settings: ExecutorSettings, stage: Stage) -> DeploymentSettings:
    return DeploymentSettings(
        ttl_s=settings.miner_deployment_ttl_seconds,
        max_age_s=stage.max_age_s,
        warmup_timeout_s=settings.miner_deployment_warmup_timeout,
        capacity=max(settings.miner_deployment_capacity, stage.max_concurrent + 2),
        python=stage.python,
        image=stage.policy_image,
        limits=Limits(
            memory_bytes=parse_size(settings.miner_deployment_memory),
            cpus=settings.miner_deployment_cpu,
            gpus=settings.miner_deployment_gpu_count,
            # One that is too old is given to nobody and ended; this is for when there is nobody to end it.
            lifetime_s=2 * stage.max_age_s if math.isfinite(stage.max_age_s) else None,
        ),
    )

"""Makes an executor of its settings, and runs it."""

import importlib.util
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from kinitro.backends.base import Limits
from kinitro.client import KinitroClient
from kinitro.deployments import DeploymentManager, DeploymentSettings, SnapshotSource, SnapshotStore
from kinitro.environments import registry
from kinitro.environments.base import EnvironmentSpec
from kinitro.environments.workers import EnvironmentWorkers
from kinitro.executor.episodes import EpisodeRunner
from kinitro.executor.executor import Executor, ExecutorLimits
from kinitro.executor.leases import Leases
from kinitro.executor.link import ApiLink
from kinitro.executor.outbox import Outbox
from kinitro.executor.records import EpisodeSettings
from kinitro.executor.selftest import SelfTest
from kinitro.executor.stage import Stage, open_stage, parse_size
from kinitro.logs import get_logger
from kinitro.settings import ExecutorSettings, home_directory

_log = get_logger("executor")


async def run(settings: ExecutorSettings) -> None:
    """Runs an executor until cancelled; then it ends in order (`shutdown_grace_seconds`).

    Raises `ConfigurationError` when a setting can't be met or the API refuses this executor.
    """
    async with build_executor(settings) as executor:
        _log.info("executor_started", executor_id=settings.executor_id, api_url=settings.api_url)
        await executor.run()


@asynccontextmanager
async def build_executor(
    settings: ExecutorSettings,
    *,
    environments: Sequence[EnvironmentSpec] | None = None,
    environment_server: Sequence[str] | None = None,
) -> AsyncIterator[Executor]:
    """An executor with all its parts; leaving the block stops every process it started.

    It serves `environments`, by default every one of its families, through servers started by `environment_server`
    (a command with `{host}` and `{port}`; in Docker mode the image's own by default).
    """
    environments = registry.served_by(settings.env_families) if environments is None else environments
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(open_stage(settings, environments, environment_server))
        backend = stage.backend
        client = await stack.enter_async_context(KinitroClient(settings.api_url, settings.api_key))
        store = SnapshotStore(
            home_directory() / "snapshots", _hub(settings), max_bytes=int(settings.snapshot_cache_gb * 10**9)
        )
        deployments = await stack.enter_async_context(
            DeploymentManager(backend, store, _deployment_settings(settings, stage))
        )
        workers = await stack.enter_async_context(EnvironmentWorkers(backend, stage.max_concurrent, stage.environments))
        link = ApiLink(client, settings.executor_id)
        leases = Leases(link)
        yield Executor(
            limits=_limits(settings, stage.max_concurrent),
            rooms=backend.hosts,
            env_ids=[spec.env_id for spec in environments],
            link=link,
            leases=leases,
            outbox=Outbox(link, leases.drop),
            deployments=deployments,
            runner=EpisodeRunner(
                deployments,
                workers,
                _episode_settings(settings, stage),
                {spec.env_id: spec.version for spec in environments},
            ),
            selftest=SelfTest(backend, workers, link, store, environments, stage.python),
        )


def _hub(settings: ExecutorSettings) -> SnapshotSource | None:
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from kinitro.deployments.hub import HuggingFaceHub  # noqa: PLC0415 - optional, and slow to import

    return HuggingFaceHub(settings.miner_hf_token)


def _deployment_settings(settings: ExecutorSettings, stage: Stage) -> DeploymentSettings:
    return DeploymentSettings(
        ttl_s=settings.miner_deployment_ttl_seconds,
        warmup_timeout_s=settings.miner_deployment_warmup_timeout,
        capacity=max(settings.miner_deployment_capacity, stage.max_concurrent + 2),
        python=stage.python,
        image=stage.policy_image,
        limits=Limits(
            memory_bytes=parse_size(settings.miner_deployment_memory),
            cpus=settings.miner_deployment_cpu,
            gpus=settings.miner_deployment_gpu_count,
        ),
    )


def _episode_settings(settings: ExecutorSettings, stage: Stage) -> EpisodeSettings:
    return EpisodeSettings(
        max_timesteps=settings.max_timesteps,
        action_timeout_s=settings.action_timeout,
        timeout_s=settings.eval_timeout,
        use_images=settings.use_images,
        eval_mode=settings.eval_mode,
        policy_image_digest=stage.policy_image_digest,
    )


def _limits(settings: ExecutorSettings, max_concurrent: int) -> ExecutorLimits:
    return ExecutorLimits(
        max_concurrent=max_concurrent,
        # Twice the slots, so that a batch spread over miners has one task to run and one to follow for each.
        max_queued=max(settings.batch_size, 2 * max_concurrent),
        poll_interval_s=settings.poll_interval_seconds,
        shutdown_grace_s=settings.shutdown_grace_seconds,
        deploys=settings.miner_deployment_enabled,
    )

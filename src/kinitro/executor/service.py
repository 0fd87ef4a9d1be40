"""Makes an executor of its settings, and runs it."""

import importlib.util
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from kinitro.backends.base import Limits
from kinitro.backends.process import ProcessBackend
from kinitro.client import KinitroClient
from kinitro.deployments import DeploymentManager, DeploymentSettings, SnapshotSource, SnapshotStore
from kinitro.environments import registry
from kinitro.environments.base import EnvironmentSpec
from kinitro.environments.workers import ENVIRONMENT_SERVER, EnvironmentWorkers
from kinitro.errors import ConfigurationError
from kinitro.executor.episodes import EpisodeRunner, EpisodeSettings
from kinitro.executor.executor import Executor, ExecutorLimits
from kinitro.executor.leases import Leases
from kinitro.executor.link import ApiLink
from kinitro.executor.outbox import Outbox
from kinitro.executor.selftest import SelfTest
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
    environment_server: Sequence[str] = ENVIRONMENT_SERVER,
) -> AsyncIterator[Executor]:
    """An executor with all its parts; leaving the block stops every process it started.

    It serves `environments`, by default every one of its families, through servers started by `environment_server`
    (a command with `{host}` and `{port}`).
    """
    environments = registry.served_by(settings.env_families) if environments is None else environments
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(_backend(settings))
        client = await stack.enter_async_context(KinitroClient(settings.api_url, settings.api_key))
        store = SnapshotStore(
            home_directory() / "snapshots", _hub(settings), max_bytes=int(settings.snapshot_cache_gb * 10**9)
        )
        deployments = await stack.enter_async_context(DeploymentManager(backend, store, _deployment_settings(settings)))
        workers = await stack.enter_async_context(
            EnvironmentWorkers(backend, settings.max_concurrent, environment_server)
        )
        link = ApiLink(client, settings.executor_id)
        leases = Leases(link)
        yield Executor(
            limits=_limits(settings),
            env_ids=[spec.env_id for spec in environments],
            link=link,
            leases=leases,
            outbox=Outbox(link, leases.drop),
            deployments=deployments,
            runner=EpisodeRunner(deployments, workers, _episode_settings(settings)),
            selftest=SelfTest(backend, workers, link, store, environments),
        )


def _backend(settings: ExecutorSettings) -> ProcessBackend:
    if settings.eval_mode != "process":
        raise ConfigurationError(
            f"This version can't run --eval-mode {settings.eval_mode} yet.",
            advice="Use --eval-mode process: it has no isolation, so only for policies that you trust.",
        )
    _log.warning(
        "no_isolation",
        note="--eval-mode process runs policies as plain processes of this user, for trusted policies only; "
        "a policy's requirements.txt is not installed, it gets this Python's packages",
    )
    return ProcessBackend()


def _hub(settings: ExecutorSettings) -> SnapshotSource | None:
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from kinitro.deployments.hub import HuggingFaceHub  # noqa: PLC0415 - optional, and slow to import

    return HuggingFaceHub(settings.miner_hf_token)


def _deployment_settings(settings: ExecutorSettings) -> DeploymentSettings:
    return DeploymentSettings(
        ttl_s=settings.miner_deployment_ttl_seconds,
        warmup_timeout_s=settings.miner_deployment_warmup_timeout,
        capacity=max(settings.miner_deployment_capacity, settings.max_concurrent + 2),
        limits=Limits(memory_bytes=parse_size(settings.miner_deployment_memory), cpus=settings.miner_deployment_cpu),
    )


def _episode_settings(settings: ExecutorSettings) -> EpisodeSettings:
    return EpisodeSettings(
        max_timesteps=settings.max_timesteps,
        action_timeout_s=settings.action_timeout,
        timeout_s=settings.eval_timeout,
        use_images=settings.use_images,
    )


def _limits(settings: ExecutorSettings) -> ExecutorLimits:
    return ExecutorLimits(
        max_concurrent=settings.max_concurrent,
        max_queued=settings.batch_size,
        poll_interval_s=settings.poll_interval_seconds,
        shutdown_grace_s=settings.shutdown_grace_seconds,
        deploys=settings.miner_deployment_enabled,
    )


def parse_size(text: str) -> int:
    """Bytes of a size as Docker (`8g`) or Kubernetes (`8Gi`) writes it; Docker's letters mean powers of 1024 too.

    Raises `ConfigurationError` for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]i?)?b?", text.strip().lower())
    if match is None:
        raise ConfigurationError(f"{text!r} is not a size.", advice="Write it as 4Gi or 4g.")
    power = {None: 0, "k": 1, "m": 2, "g": 3}[match[2][0] if match[2] else None]
    return int(float(match[1]) * 1024**power)

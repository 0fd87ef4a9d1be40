"""Makes an executor of its settings, and runs it."""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from kinitro.archive import Archive
from kinitro.client import KinitroClient, SetBy
from kinitro.environments import registry
from kinitro.environments.base import EnvironmentSpec
from kinitro.executor.episodes import EpisodeRunner
from kinitro.executor.executor import Executor, ExecutorLimits
from kinitro.executor.identity import own_name
from kinitro.executor.leases import Leases
from kinitro.executor.link import ApiLink
from kinitro.executor.outbox import Outbox
from kinitro.executor.records import EpisodeSettings, StepsKeeper
from kinitro.executor.rig import open_rig
from kinitro.executor.selftest import SelfTest
from kinitro.executor.stage import Stage
from kinitro.logs import get_logger
from kinitro.settings import ApiSettings, ExecutorSettings, home_directory

_log = get_logger("executor")


async def run(settings: ExecutorSettings) -> None:
    """Runs an executor until cancelled; then it ends in order (`shutdown_grace_seconds`).

    Raises `ConfigurationError` when a setting can't be met or the API refuses this executor.
    """
    async with build_executor(settings) as executor:
        await executor.run()


@asynccontextmanager
async def build_executor(
    settings: ExecutorSettings,
    *,
    environments: Sequence[EnvironmentSpec] | None = None,
    environment_server: Sequence[str] | None = None,
) -> AsyncIterator[Executor]:
    """An executor with all its parts; leaving the block stops every process it started.

    It serves `environments`, by default every one of its families (those of the default set, unless it names others),
    through servers started by `environment_server` (a command with `{host}` and `{port}`; in Docker mode the image's
    own by default).
    """
    environments = registry.served_by(settings.env_families) if environments is None else environments
    keeper = StepsKeeper(Archive(settings.records_url) if settings.records_url else None)
    async with (
        _named(settings) as executor_id,
        open_rig(settings, environments, environment_server) as rig,
        KinitroClient(settings.api_url, settings.api_key, set_by=SetBy.EXECUTOR) as client,
    ):
        _log.info("executor_started", executor_id=executor_id, api_url=settings.api_url)
        _warn_of_short_leases(settings, rig.stage.beyond_s)
        link = ApiLink(client, executor_id, usage=rig.stage.usage)
        leases = Leases(link)
        versions = {spec.env_id: spec.version for spec in environments}
        yield Executor(
            limits=_limits(settings, rig.stage.max_concurrent, calls_out=not rig.stage.backend.isolates),
            rooms=rig.stage.backend.hosts,
            env_ids=[spec.env_id for spec in environments],
            link=link,
            leases=leases,
            outbox=Outbox(link, leases.drop),
            deployments=rig.deployments,
            runner=EpisodeRunner(
                rig.deployments, rig.workers, _episode_settings(settings, rig.stage), versions, keeper
            ),
            selftest=SelfTest(rig.stage.backend, rig.workers, link, rig.store, environments, rig.stage.python),
        )


def _warn_of_short_leases(settings: ExecutorSettings, beyond_s: float) -> None:
    """A task that takes longer than its lease is run again, whoever was slow; the API's setting is not known here."""
    needed_s = settings.miner_deployment_warmup_timeout + settings.eval_timeout + beyond_s + 60.0
    if needed_s > ApiSettings.model_fields["max_lease_seconds"].default:
        _log.warning(
            "leases_may_be_too_short",
            needed_s=needed_s,
            note=f"start the API with KINITRO_API_MAX_LEASE_SECONDS={math.ceil(needed_s)}: a task that outlives its "
            "lease is run again",
        )


@asynccontextmanager
async def _named(settings: ExecutorSettings) -> AsyncIterator[str]:
    if settings.executor_id is not None:
        yield settings.executor_id
    else:
        with own_name(home_directory() / "executors") as name:
            yield name


def _episode_settings(settings: ExecutorSettings, stage: Stage) -> EpisodeSettings:
    return EpisodeSettings(
        max_timesteps=settings.max_timesteps,
        action_timeout_s=settings.action_timeout,
        timeout_s=settings.eval_timeout,
        use_images=settings.use_images,
        eval_mode=settings.eval_mode.value,
        policy_image_digest=stage.policy_image_digest,
    )


def _limits(settings: ExecutorSettings, max_concurrent: int, *, calls_out: bool) -> ExecutorLimits:
    return ExecutorLimits(
        max_concurrent=max_concurrent,
        # Twice the slots, so that a batch spread over miners has one task to run and one to follow for each.
        max_queued=max(settings.batch_size, 2 * max_concurrent),
        poll_interval_s=settings.poll_interval_seconds,
        shutdown_grace_s=settings.shutdown_grace_seconds,
        deploys=settings.miner_deployment_enabled,
        calls_out=calls_out,
    )

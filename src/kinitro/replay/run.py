"""Runs recorded episodes again: with their policy as an executor does, or from their recorded actions alone."""

import asyncio
import base64
import os
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from kinitro.environments.base import EnvironmentSpec
from kinitro.environments.gl import BACKENDS, FORCED, probe
from kinitro.environments.server import Catalogue, registry_catalogue
from kinitro.environments.trace import Steps
from kinitro.errors import ConfigurationError, KinitroError
from kinitro.executor.episodes import EpisodeRunner, Outcome
from kinitro.executor.records import EpisodeSettings
from kinitro.executor.rig import Rig, open_rig
from kinitro.replay.compare import LATE, Comparison, Run, compare
from kinitro.replay.recorded import Recorded
from kinitro.replay.resimulate import recorded_steps, resimulate
from kinitro.schemas import EpisodeConditions, TaskOut
from kinitro.settings import ExecutorSettings
from kinitro.types import EvalMode, TaskStatus

_NEVER = datetime.max.replace(tzinfo=UTC)
_PATIENT_ACTION_S = 30.0
_PATIENCE = 10.0
_LONGEST_S = 86_400.0  # what an environment server takes
_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Replay:
    """One episode run again. `run` and `comparison` are None when it could not be, and `failure` says why."""

    recorded: Recorded
    run: Run | None = None
    comparison: Comparison | None = None
    failure: KinitroError | None = None


@dataclass(frozen=True)
class _Place:
    """What a rig must have for an episode: its images, and the library that drew its pictures."""

    environment_image: str | None
    policy_image: str | None
    library: str | None


async def replay(
    episodes: Sequence[Recorded],
    settings: ExecutorSettings,
    *,
    catalogue: Catalogue | None = None,
    environment_server: Sequence[str] | None = None,
) -> AsyncIterator[Replay]:
    """Runs episodes again with their policies, and yields each when it is done, in no order.

    As many at once as `settings.max_concurrent`, each with its own recorded limits and, in Docker mode, its own
    recorded images where this machine has them. Waits for the policy are longer than they were, unless the policy
    was late: being late is the one thing that no seed decides.
    """
    catalogue = catalogue or registry_catalogue()
    groups: defaultdict[_Place, list[Recorded]] = defaultdict(list)
    for episode in episodes:
        groups[_place(episode, settings)].append(episode)
    for place, members in groups.items():
        specs = [catalogue.find(env_id) for env_id in sorted({member.env_id for member in members})]
        async with _open(settings, place, specs, environment_server) as rig:
            slots = asyncio.Semaphore(rig.stage.max_concurrent)
            running = [asyncio.create_task(_replay(rig, settings, member, slots)) for member in members]
            try:
                for done in asyncio.as_completed(running):
                    yield await done
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)


async def without_policy(episodes: Sequence[Recorded], *, catalogue: Catalogue | None = None) -> AsyncIterator[Replay]:
    """Applies the recorded actions of each, in a simulator of this process: does it stand by the record?

    Runs nobody's code but the simulator's. That the policy would act so, it does not show.
    """
    for episode in episodes:
        try:
            run = await asyncio.to_thread(
                lambda one: resimulate(one, recorded_steps(one), catalogue=catalogue), episode
            )
        except KinitroError as error:
            yield Replay(episode, failure=error)
        else:
            yield Replay(episode, run, compare(episode.run, run))


def _place(episode: Recorded, settings: ExecutorSettings) -> _Place:
    if settings.eval_mode is not EvalMode.DOCKER:
        return _Place(None, None, _library(episode.conditions))
    return _Place(_image_id(episode.run.image_digest), _image_id(episode.conditions.policy_image_digest), None)


def _image_id(digest: str | None) -> str | None:
    """Only a content's own id is started by a record's word: a name could be anybody's image."""
    return digest if digest and _IMAGE_ID.fullmatch(digest) else None


def _library(conditions: EpisodeConditions) -> str | None:
    drawn_by = conditions.simulation.stack.get("opengl", "") if conditions.simulation else ""
    name = drawn_by.partition(",")[0]
    return name if name in BACKENDS else None


@asynccontextmanager
async def _open(
    settings: ExecutorSettings,
    place: _Place,
    specs: Sequence[EnvironmentSpec],
    environment_server: Sequence[str] | None,
) -> AsyncIterator[Rig]:
    """A rig with the recorded images, or with the usual ones where they are not on this machine."""
    images = {spec.family: place.environment_image for spec in specs} if place.environment_image else {}
    recorded = settings.model_copy(
        update={
            "eval_images": images | settings.eval_images,
            "miner_deployment_image": place.policy_image or settings.miner_deployment_image,
        }
    )
    variables = await asyncio.to_thread(_drawing_as, place.library)
    async with AsyncExitStack() as stack:
        try:
            rig = await stack.enter_async_context(open_rig(recorded, specs, environment_server, variables=variables))
        except ConfigurationError as error:
            if recorded == settings or not error.message.startswith("Failed to pull image"):
                raise
            rig = await stack.enter_async_context(open_rig(settings, specs, environment_server, variables=variables))
        yield rig


def _drawing_as(library: str | None) -> dict[str, str]:
    """Makes environments draw with the recorded library, unless it does not work here or the user chose another."""
    if library is None or FORCED in os.environ or probe(library) is not None:
        return {}
    return {FORCED: library}


async def _replay(rig: Rig, settings: ExecutorSettings, recorded: Recorded, slots: asyncio.Semaphore) -> Replay:
    try:
        async with slots:
            run = _made_of(await _run(rig, settings, recorded))
    except KinitroError as error:
        return Replay(recorded, failure=error)
    return Replay(recorded, run, compare(recorded.run, run))


async def _run(rig: Rig, settings: ExecutorSettings, recorded: Recorded) -> Outcome:
    conditions = recorded.conditions
    action_timeout_s, timeout_s = conditions.action_timeout_s, conditions.timeout_s
    if recorded.run.error_code not in LATE:
        action_timeout_s = max(action_timeout_s, _PATIENT_ACTION_S)
        timeout_s = min(_PATIENCE * timeout_s, _LONGEST_S)
    episode_settings = EpisodeSettings(
        max_timesteps=conditions.max_timesteps,
        action_timeout_s=action_timeout_s,
        timeout_s=timeout_s,
        use_images=conditions.use_images,
        eval_mode=settings.eval_mode.value,
        policy_image_digest=rig.stage.policy_image_digest,
    )
    return await EpisodeRunner(rig.deployments, rig.workers, episode_settings).run(_task(recorded))


def _task(recorded: Recorded) -> TaskOut:
    out = recorded.out
    return TaskOut(
        task_uuid=recorded.task_uuid,
        lease_token=uuid4(),
        lease_expires_at=_NEVER,
        cycle_id=out.cycle_id,
        miner_uid=out.episode.uid,
        miner_hotkey=out.hotkey,
        miner_repo=out.repo,
        miner_revision=out.revision,
        env_id=out.episode.env_id,
        seed=out.episode.seed,
        policy_seed=recorded.policy_seed,
        status=TaskStatus.ASSIGNED,
        created_at=_NEVER,
    )


def _made_of(outcome: Outcome) -> Run:
    """What the second run came to. Raises `KinitroError` when it came to nothing."""
    result, record = outcome.result, outcome.record
    if record is None:
        raise KinitroError(f"The episode could not be run again: {result.error}")
    return Run(
        success=result.success,
        timesteps=result.timesteps,
        total_reward=result.total_reward,
        error=result.error,
        error_kind=result.error_kind,
        error_code=record.error_code,
        trace_digest=result.trace_digest,
        tree_digest=result.tree_digest,
        image_digest=result.image_digest,
        conditions=record.conditions,
        steps=Steps.decode(base64.b64decode(record.steps)) if record.steps else None,
    )

"""Recorded episodes, from the API or from an export, and which of them is worth a look."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from kinitro.archive import Archive
from kinitro.environments import find
from kinitro.environments.trace import DamagedSteps, Steps
from kinitro.errors import ConfigurationError, InfrastructureError
from kinitro.replay.compare import Run, recorded_run
from kinitro.schemas import MAX_STEPS_BYTES, CycleExport, EpisodeConditions, EpisodeOut, EpisodeRecord, ExportEpisode


@dataclass(frozen=True)
class Recorded:
    """An episode that can be run again."""

    out: EpisodeOut
    task_uuid: UUID
    policy_seed: int
    conditions: EpisodeConditions
    run: Run

    @property
    def env_id(self) -> str:
        """Its environment."""
        return self.out.episode.env_id

    @property
    def name(self) -> str:
        """What people call it."""
        episode = self.out.episode
        return f"{self.task_uuid} (uid {episode.uid}, {episode.env_id}, episode {episode.index})"


def recorded(out: EpisodeOut, steps: bytes | None = None) -> Recorded:
    """Reads a record; `steps` is the compact form where the record only says where that is.

    Raises `ConfigurationError` with the reason when there is nothing to run again.
    """
    episode = out.episode
    if (reason := _why_not(out)) is not None:
        raise ConfigurationError(
            f"uid {episode.uid}'s episode {episode.index} of {episode.env_id} can't be replayed: {reason}."
        )
    assert out.record is not None
    assert episode.task_uuid is not None
    assert episode.policy_seed is not None
    kept = base64.b64decode(out.record.steps) if out.record.steps is not None else steps
    read, damage = _steps(kept, out.record.steps_sha256)
    return Recorded(
        out=out,
        task_uuid=episode.task_uuid,
        policy_seed=episode.policy_seed,
        conditions=out.record.conditions,
        run=recorded_run(out, out.record.conditions, read, damage),
    )


async def steps_elsewhere(out: EpisodeOut, place: str | None) -> bytes | None:
    """The steps of a record that only says where an executor keeps them; None for any other record.

    Only below `place` is anything opened. Raises `InfrastructureError` when they can't be had there, and
    `ConfigurationError` when `place` is none.
    """
    if out.record is None or out.record.steps is not None or out.record.steps_url is None:
        return None
    if place is None:
        raise InfrastructureError(
            f"The recorded steps are at {out.record.steps_url!a}, and no record decides alone what is opened here: "
            "set KINITRO_EXECUTOR_RECORDS_URL to that place if you trust it.",
            code="archive",
        )
    return await Archive(place).read(out.record.steps_url, MAX_STEPS_BYTES)


def _steps(kept: bytes | None, sha256_hex: str | None) -> tuple[Steps | None, str | None]:
    """The steps, or what is wrong with them."""
    if kept is None:
        return None, None
    if sha256(kept).hexdigest() != sha256_hex:
        return None, "the SHA-256 of its steps is not the one that it names"
    try:
        return Steps.decode(kept), None
    except DamagedSteps as error:
        return None, f"its steps can't be read ({error.message.rstrip('.')})"


def can_be_replayed(episode: ExportEpisode) -> bool:
    """Whether anything ran that could be run again."""
    return episode.success is not None and episode.conditions is not None


def _why_not(out: EpisodeOut) -> str | None:
    episode = out.episode
    if episode.success is None:
        return f"it reached no verdict ({episode.error or 'never run'})"
    if episode.executor_id is None:
        return f"it was not run ({episode.error})"
    if out.record is None:
        return f"no simulator ran it ({episode.error or 'its executor kept no record'})"
    if episode.task_uuid is None or episode.policy_seed is None:
        return "its export is of a version that did not say with which policy seed it ran"
    return None


def episodes_of(export: CycleExport) -> list[EpisodeOut]:
    """Every episode of an export, its record without steps."""
    miners = {miner.uid: miner for miner in export.miners}
    return [
        EpisodeOut(
            cycle_id=export.cycle_id,
            netuid=export.netuid,
            hotkey=miners[episode.uid].hotkey,
            repo=miners[episode.uid].repo,
            revision=miners[episode.uid].revision,
            episode=episode,
            record=_record(export, episode),
        )
        for episode in export.episodes
        if episode.uid in miners
    ]


def _record(export: CycleExport, episode: ExportEpisode) -> EpisodeRecord | None:
    conditions = export.conditions.get(episode.conditions or "")
    return None if conditions is None else EpisodeRecord(conditions=conditions, error_code=episode.error_code)


def select(export: CycleExport, uid: int, env_id: str, index: int) -> ExportEpisode:
    """One episode by who, where and which. Raises `ConfigurationError` when the cycle has no such one."""
    wanted = (uid, env_id, index)
    for episode in export.episodes:
        if (episode.uid, episode.env_id, episode.index) == wanted:
            return episode
    if env_id not in export.environments:
        find(env_id)  # an id that exists nowhere is told with the nearest ones
    uids = sorted({episode.uid for episode in export.episodes})
    raise ConfigurationError(
        f"Cycle {export.cycle_id} has no episode {index} of uid {uid} in {env_id}.",
        advice=f"It has uids {_listed(uids)}, episodes 0 to {export.episodes_per_env - 1}, and the environments "
        f"{', '.join(export.environments)}.",
    )


def failure_worth_seeing(export: CycleExport, uid: int) -> ExportEpisode:
    """A failed episode of this miner: where it mostly succeeds, and came nearest by its reward.

    Raises `ConfigurationError` when there is none.
    """
    mine = [episode for episode in export.episodes if episode.uid == uid and can_be_replayed(episode)]
    failures = [episode for episode in mine if not episode.success and episode.timesteps]
    if not failures:
        raise ConfigurationError(
            f"uid {uid} has no failed episode in cycle {export.cycle_id} that could be shown.",
            advice=f"See `kinitro explain --miner {uid}`.",
        )
    rates = {env_id: _rate(episode for episode in mine if episode.env_id == env_id) for env_id in export.environments}
    return max(failures, key=lambda episode: (rates[episode.env_id], episode.total_reward or 0.0))


def _rate(episodes: Iterable[ExportEpisode]) -> float:
    outcomes = [bool(episode.success) for episode in episodes]
    return sum(outcomes) / len(outcomes) if outcomes else 0.0


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")

"""What a cycle consists of: whose commitment is evaluated, whose is a copy or rejected, and which episodes follow.

Pure: the same inputs give the same plan.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kinitro.chain import Neuron, parse_commitment
from kinitro.errors import InvalidCommitment
from kinitro.scheduler.audit import is_drawn
from kinitro.scoring import episode_seed, policy_seed
from kinitro.storage import MinerEntry, PlannedTask, Sighting, Submission
from kinitro.types import MinerState, PolicyRef


@dataclass(frozen=True)
class Discovery:
    """The commitments of a subnet: those that can be read, and those that can't, with the reason."""

    readable: tuple[Sighting, ...]
    rejected: tuple[MinerEntry, ...]


def discover(neurons: Iterable[Neuron]) -> Discovery:
    """Sorts a subnet's neurons by what their commitment says. Neurons without one are not miners."""
    readable: list[Sighting] = []
    rejected: list[MinerEntry] = []
    for neuron in neurons:
        if neuron.commitment is None or neuron.committed_block is None:
            continue
        try:
            ref = parse_commitment(neuron.commitment)
        except InvalidCommitment as error:
            rejected.append(
                MinerEntry(
                    neuron.uid, neuron.hotkey, None, neuron.committed_block, None, None, MinerState.REJECTED, str(error)
                )
            )
        else:
            readable.append(Sighting(neuron.uid, neuron.hotkey, ref, neuron.committed_block))
    return Discovery(tuple(readable), tuple(rejected))


def line_up(
    sightings: Sequence[Sighting],
    submissions: Mapping[str, Submission],
    digests: Mapping[tuple[str, str], str],
) -> tuple[MinerEntry, ...]:
    """Puts readable commitments in line and marks copies of those before them; places are still to be given.

    The line is ordered by the first block at which a hotkey was seen with its policy, ties by uid. `digests` maps
    (lower-case repo, revision) to the snapshot's tree digest where an executor has reported it.
    """
    line = sorted(sightings, key=lambda seen: (submissions[seen.hotkey].first_seen_block, seen.uid))
    owner_of: dict[tuple[str, ...], int] = {}
    return tuple(_entry(seen, submissions[seen.hotkey], digests, owner_of) for seen in line)


def _entry(
    seen: Sighting,
    submission: Submission,
    digests: Mapping[tuple[str, str], str],
    owner_of: dict[tuple[str, ...], int],
) -> MinerEntry:
    keys = _identities(seen.ref, digests)
    owner = next((owner_of[key] for key in keys if key in owner_of), None)
    for key in keys:
        owner_of.setdefault(key, seen.uid)
    return MinerEntry(
        uid=seen.uid,
        hotkey=seen.hotkey,
        ref=seen.ref,
        committed_block=seen.block,
        submission_id=submission.id,
        place=submission.place if owner is None else None,
        state=MinerState.EVALUATED if owner is None else MinerState.COPY,
        reason=None if owner is None else copy_reason(owner),
    )


def place_seekers(
    line: Iterable[MinerEntry], turned_away: Iterable[MinerEntry], submissions: Mapping[str, Submission]
) -> list[int]:
    """The submissions that get places, in order of line: those evaluated, and those that only wait for the hub.

    Who waits keeps its turn, since the hub's trouble is not its fault; copies and rejected ones have none.
    """
    evaluated = [miner for miner in line if miner.state is MinerState.EVALUATED]
    waiting = [miner for miner in turned_away if miner.state is MinerState.QUEUED]
    seeking = [(submissions[miner.hotkey], miner.uid) for miner in (*evaluated, *waiting)]
    return [one.id for one, _ in sorted(seeking, key=lambda pair: (pair[0].first_seen_block, pair[1]))]


def with_places(line: Iterable[MinerEntry], place_of: Mapping[int, int]) -> tuple[MinerEntry, ...]:
    """The line with the places that were given, by submission id. Copies have none."""
    return tuple(
        replace(miner, place=place_of[miner.submission_id])
        if miner.state is MinerState.EVALUATED and miner.submission_id is not None
        else miner
        for miner in line
    )


def with_submissions(
    turned_away: Iterable[MinerEntry], submissions: Mapping[str, Submission]
) -> tuple[MinerEntry, ...]:
    """Miners that are not in line, each with what is remembered of its policy, where its commitment can be read."""
    return tuple(
        replace(miner, submission_id=submissions[miner.hotkey].id) if miner.ref is not None else miner
        for miner in turned_away
    )


def copy_reason(owner_uid: int) -> str:
    """What a copy's owner reads."""
    return f"copy of uid {owner_uid}"


def _identities(ref: PolicyRef, digests: Mapping[tuple[str, str], str]) -> list[tuple[str, ...]]:
    """What makes two policies the same: their reference, or what their snapshots hold."""
    reference = (ref.repo.lower(), ref.revision)
    digest = digests.get(reference)
    return [reference] if digest is None else [reference, (digest,)]


def plan_tasks(
    miners: Iterable[MinerEntry],
    environments: Sequence[str],
    episodes_per_env: int,
    salt: bytes,
    block_hash: str,
    *,
    audit_rate: float = 0.0,
) -> Iterator[PlannedTask]:
    """Every episode of a cycle, in the order in which tasks are handed out; a share `audit_rate` drawn to be checked.

    One miner after another and one environment after another, so that a running policy and a built simulator serve
    many episodes in a row. Every miner meets the same seeds.
    """
    seeds = {
        env_id: [episode_seed(salt, block_hash, env_id, index) for index in range(episodes_per_env)]
        for env_id in environments
    }
    position = 0
    for miner in miners:
        if miner.state is not MinerState.EVALUATED or miner.ref is None:
            continue
        for env_id in environments:
            for index in range(episodes_per_env):
                yield PlannedTask(
                    uid=miner.uid,
                    hotkey=miner.hotkey,
                    repo=miner.ref.repo,
                    revision=miner.ref.revision,
                    env_id=env_id,
                    episode_index=index,
                    seed=seeds[env_id][index],
                    policy_seed=policy_seed(salt, miner.hotkey, env_id, index),
                    position=position,
                    is_drawn=is_drawn(salt, miner.hotkey, env_id, index, audit_rate),
                )
                position += 1

"""Whose policy a commitment names (contracts section 6).

A snapshot says so itself, in `kinitro.json`: anyone can commit anyone's repo, but only its owner can write into it.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kinitro.errors import InfrastructureError, PolicyError
from kinitro.storage import MinerEntry, Sighting
from kinitro.types import MinerState, PolicyRef

INSPECTION_S = 120.0
"""For all of a cycle's new revisions together: what is not known by then waits for the next cycle."""
AT_ONCE = 8


class PolicyInspector(Protocol):
    """Reads `kinitro.json` of a revision."""

    async def read_owner(self, ref: PolicyRef) -> str | None:
        """The hotkey it names; None when the file is missing or names none.

        Raises:
            PolicyError: the hub has no such repo or revision, or shows it to nobody.
            InfrastructureError: the hub can't tell now.
        """
        ...


@dataclass(frozen=True)
class Inspection:
    """What the hub said of new revisions, by reference. Only `owners` are for ever.

    `refused` are the policy's own fault as of now (a repo may be made public later); `unknown` are nobody's.
    """

    owners: dict[PolicyRef, str | None] = field(default_factory=dict)
    refused: dict[PolicyRef, str] = field(default_factory=dict)
    unknown: dict[PolicyRef, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Admission:
    """Who takes part, and who does not, each with the reason."""

    admitted: tuple[Sighting, ...]
    turned_away: tuple[MinerEntry, ...]


async def inspect(
    inspector: PolicyInspector, refs: Iterable[PolicyRef], *, within_s: float = INSPECTION_S
) -> Inspection:
    """Asks for each reference, several at once, and gives up on the rest after `within_s`."""
    found = Inspection()
    waiting = list(refs)
    found.unknown.update(dict.fromkeys(waiting, f"the hub did not answer for it within {within_s:.0f} s"))

    async def work() -> None:
        while waiting:
            await _ask(inspector, waiting.pop(), found)

    try:
        async with asyncio.timeout(within_s), asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(waiting))):
                group.create_task(work())
    except TimeoutError:
        pass  # those are `unknown` still
    return found


async def _ask(inspector: PolicyInspector, ref: PolicyRef, found: Inspection) -> None:
    try:
        found.owners[ref] = await inspector.read_owner(ref)
    except PolicyError as error:
        found.refused[ref] = str(error)
    except InfrastructureError as error:
        found.unknown[ref] = error.message
        return
    del found.unknown[ref]


def admit(sightings: Sequence[Sighting], known: Mapping[tuple[str, str], str | None], found: Inspection) -> Admission:
    """Only the hotkey that a snapshot names takes part with it. Pure.

    Who is turned away is nobody's copy and nobody's owner: the place of the true owner is untouched.
    """
    admitted: list[Sighting] = []
    turned_away: list[MinerEntry] = []
    owners = dict(known) | {_key(ref): hotkey for ref, hotkey in found.owners.items()}
    refused = {_key(ref): reason for ref, reason in found.refused.items()}
    unknown = {_key(ref): reason for ref, reason in found.unknown.items()}
    for seen in sightings:
        key = _key(seen.ref)
        if owners.get(key) == seen.hotkey:
            admitted.append(seen)
        elif key in owners:
            turned_away.append(_entry(seen, MinerState.REJECTED, not_yours(owners[key])))
        elif key in refused:
            turned_away.append(_entry(seen, MinerState.REJECTED, refused[key]))
        else:
            why = unknown.get(key, "the hub was not asked")
            turned_away.append(_entry(seen, MinerState.QUEUED, f"Whose policy it is can't be read yet: {why}"))
    return Admission(tuple(admitted), tuple(turned_away))


def not_yours(owner: str | None) -> str:
    """What a miner reads who committed a policy that does not name its hotkey."""
    if owner is None:
        return (
            'The repo has no kinitro.json with {"hotkey": "<your hotkey>"} at this revision, so it is not known to be '
            "yours. `kinitro miner deploy` writes it."
        )
    return f"kinitro.json at this revision names another hotkey, {owner}: the policy is not this miner's."


def unseen(sightings: Iterable[Sighting], known: Mapping[tuple[str, str], str | None]) -> list[PolicyRef]:
    """The references whose owner is not known, each once."""
    return list({_key(seen.ref): seen.ref for seen in sightings if _key(seen.ref) not in known}.values())


def _key(ref: PolicyRef) -> tuple[str, str]:
    return ref.repo.lower(), ref.revision


def _entry(seen: Sighting, state: MinerState, reason: str) -> MinerEntry:
    return MinerEntry(seen.uid, seen.hotkey, seen.ref, seen.block, None, None, state, reason)

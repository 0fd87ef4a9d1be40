"""What an export proves about itself: its salt, seeds, digests and consistency (contracts section 7)."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from kinitro.logs import printable
from kinitro.schemas import CycleExport, ExportEpisode
from kinitro.scoring.outcomes import InvalidExport, read_history, read_outcomes
from kinitro.scoring.seeds import SALT_BYTES, episode_seed, policy_seed, salt_digest
from kinitro.types import MinerState

_K = TypeVar("_K", int, str)

_HEX_32 = re.compile(r"0x[0-9a-f]{64}")
_SHOWN_DIGITS, _SHOWN_NAMES, _SHOWN_DIGESTS = 24, 100, 4


class Outcome(StrEnum):
    """`noted`: executors' words differ, which proves nothing about the export but is worth a look (decision 26).

    `skipped`: the export holds nothing to check, and `detail` says why.
    """

    PASSED = "passed"
    NOTED = "noted"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, and in `detail` what was found."""

    name: str
    outcome: Outcome
    detail: str


def check_export(export: CycleExport) -> tuple[Check, ...]:
    """Everything that can be checked offline. Never raises: a failed check says what is wrong."""
    checks: tuple[Callable[[CycleExport], Check], ...] = (
        _check_structure,
        _check_salt,
        _check_seeds,
        _check_policy_seeds,
        _check_tree_digests,
        check_images,
    )
    return tuple(check(export) for check in checks)


def all_passed(checks: tuple[Check, ...]) -> bool:
    """Whether nothing failed; what is noted or skipped is no failure."""
    return all(check.outcome is not Outcome.FAILED for check in checks)


def render_checks(checks: tuple[Check, ...]) -> str:
    """A line for each, for people."""
    return "\n".join(f"{check.outcome.value:<8} {check.name}: {check.detail}" for check in checks)


def _verdict(name: str, problems: list[str], good: str, bad: Outcome = Outcome.FAILED) -> Check:
    if not problems:
        return Check(name, Outcome.PASSED, good)
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return Check(name, bad, "; ".join(problems[:3]) + more)


def _check_structure(export: CycleExport) -> Check:
    try:
        outcomes = read_outcomes(export)
        for row in export.history:
            read_history(row)
    except InvalidExport as error:
        return Check("structure", Outcome.FAILED, error.message)
    detail = (
        f"{len(export.episodes)} episodes of {len(outcomes.miners)} evaluated miners in {len(export.environments)} "
        f"environments, {len({row.cycle_id for row in export.history})} earlier cycles"
    )
    return Check("structure", Outcome.PASSED, detail)


def _salt(export: CycleExport) -> bytes | None:
    try:
        salt = bytes.fromhex(export.salt)
    except ValueError:
        return None
    return salt if len(salt) == SALT_BYTES else None


def _check_salt(export: CycleExport) -> Check:
    salt = _salt(export)
    if salt is None:
        return Check("salt", Outcome.FAILED, f"it is not {SALT_BYTES} bytes in hex")
    wrong = [] if salt_digest(salt) == export.salt_sha256 else [f"its sha256 is not {export.salt_sha256}"]
    return _verdict(
        "salt", wrong, f"its sha256 is {export.salt_sha256}, as published before block {export.target_block}"
    )


def _check_seeds(export: CycleExport) -> Check:
    salt = _salt(export)
    if export.block_hash is None:
        return Check("seeds", Outcome.SKIPPED, "the cycle ended before its target block was final")
    if salt is None or not _HEX_32.fullmatch(export.block_hash):
        return Check("seeds", Outcome.FAILED, "the salt or the block hash is malformed")
    expected: dict[tuple[str, int], int] = {}
    wrong = []
    for episode in export.episodes:
        key = (episode.env_id, episode.index)
        if key not in expected:
            expected[key] = episode_seed(salt, export.block_hash, *key)
        if episode.seed != expected[key]:
            wrong.append(f"episode {episode.index} of {episode.env_id} for uid {episode.uid} has seed {episode.seed}")
    good = f"{len(export.episodes)} follow from the salt and the hash of block {export.target_block}"
    return _verdict("seeds", wrong, good)


def _check_policy_seeds(export: CycleExport) -> Check:
    salt = _salt(export)
    if salt is None:
        return Check("policy seeds", Outcome.FAILED, "the salt is malformed")
    hotkeys = {miner.uid: miner.hotkey for miner in export.miners}
    present = [e for e in export.episodes if e.policy_seed is not None and e.uid in hotkeys]
    if not present:
        return Check("policy seeds", Outcome.SKIPPED, "the export has none")
    wrong = [
        f"episode {e.index} of {e.env_id} for uid {e.uid} has policy seed {e.policy_seed}"
        for e in present
        if e.policy_seed != policy_seed(salt, hotkeys[e.uid], e.env_id, e.index)
    ]
    return _verdict("policy seeds", wrong, f"{len(present)} follow from the salt and the hotkeys")


def files_said(export: CycleExport) -> dict[int, set[str]]:
    """The tree digests that were reported of each miner, by uid."""
    said: defaultdict[int, set[str]] = defaultdict(set)
    for episode in export.episodes:
        if episode.tree_digest is not None:
            said[episode.uid].add(episode.tree_digest)
    return dict(said)


def _unfounded_copies(export: CycleExport, competing: set[int]) -> list[str]:
    """A copy that was evaluated must have one set of files, and one that competes no other. Else it was left out."""
    said = files_said(export)
    owned = [said[uid] for uid in competing & said.keys()]
    copies = [miner.uid for miner in export.miners if miner.state is MinerState.COPY and miner.uid in said]
    return [
        f"uid {uid} is listed as a copy, but no miner that competes ran with the same files"
        for uid in copies
        if len(said[uid]) > 1 or said[uid] not in owned
    ]


def _check_tree_digests(export: CycleExport) -> Check:
    said = _who_said((episode.uid, episode.tree_digest, episode) for episode in export.episodes)
    if not said:
        return Check("policy files", Outcome.SKIPPED, "the export has no tree digests")
    competing = {m.uid for m in export.miners if m.state is MinerState.EVALUATED and m.place is not None}
    if unfounded := _unfounded_copies(export, competing):
        return _verdict("policy files", unfounded, "")
    owners: defaultdict[str, list[int]] = defaultdict(list)
    for uid in sorted(competing & said.keys()):
        for digest in said[uid]:
            owners[digest].append(uid)
    odd = [
        f"uid {uid} ran with {len(digests)} different sets of files: {_listed(digests)}"
        for uid, digests in said.items()
        if len(digests) > 1
    ]
    odd += [
        f"uids {', '.join(map(str, uids))} compete with the same files: {_listed({digest: said[uids[0]][digest]})}"
        for digest, uids in owners.items()
        if len(uids) > 1
    ]
    return _verdict("policy files", odd, f"one tree digest for each of {len(said)} miners, none shared", Outcome.NOTED)


def check_images(export: CycleExport) -> Check:
    """Which images environments ran from, as their executors said."""
    said = _who_said((episode.env_id, episode.image_digest, episode) for episode in export.episodes)
    if not said:
        return Check("images", Outcome.SKIPPED, "the export has no image digests")
    odd: defaultdict[str, list[str]] = defaultdict(list)
    for env_id, images in said.items():
        if len(images) > 1:
            odd[f"ran from {len(images)} different images: {_listed(images)}"].append(env_id)
    found = [f"{', '.join(env_ids)} {what}" for what, env_ids in odd.items()]
    return _verdict("images", found, f"one image for each of {len(said)} environments", Outcome.NOTED)


_Said = dict[str, set[str]]
"""Each digest that was reported, with the executors that did."""


def _who_said(reports: Iterable[tuple[_K, str | None, ExportEpisode]]) -> dict[_K, _Said]:
    said: dict[_K, _Said] = {}
    for what, digest, episode in reports:
        if digest is not None:
            said.setdefault(what, {}).setdefault(digest, set()).add(episode.executor_id or "nobody")
    return said


def _listed(said: _Said) -> str:
    return ", ".join(
        f"{printable(digest, _SHOWN_DIGITS)} by {printable(', '.join(sorted(who)), _SHOWN_NAMES)}"
        for digest, who in sorted(said.items())[:_SHOWN_DIGESTS]
    )

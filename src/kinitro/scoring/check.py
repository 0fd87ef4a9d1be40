"""What an export proves about itself: its salt, seeds, digests and consistency (contracts section 7)."""

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from kinitro.schemas import CycleExport
from kinitro.scoring.outcomes import InvalidExport, read_history, read_outcomes
from kinitro.scoring.seeds import SALT_BYTES, episode_seed, policy_seed, salt_digest
from kinitro.types import MinerState

_HEX_32 = re.compile(r"0x[0-9a-f]{64}")


class Outcome(StrEnum):
    """`skipped`: the export holds nothing to check, and `detail` says why."""

    PASSED = "passed"
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
        _check_image_digests,
    )
    return tuple(check(export) for check in checks)


def all_passed(checks: tuple[Check, ...]) -> bool:
    """Whether nothing failed; skipped checks are no failures."""
    return all(check.outcome is not Outcome.FAILED for check in checks)


def render_checks(checks: tuple[Check, ...]) -> str:
    """A line for each, for people."""
    return "\n".join(f"{check.outcome.value:<8} {check.name}: {check.detail}" for check in checks)


def _verdict(name: str, problems: list[str], good: str) -> Check:
    if not problems:
        return Check(name, Outcome.PASSED, good)
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return Check(name, Outcome.FAILED, "; ".join(problems[:3]) + more)


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


def _check_tree_digests(export: CycleExport) -> Check:
    competing = {m.uid for m in export.miners if m.state is MinerState.EVALUATED and m.place is not None}
    found: defaultdict[int, set[str]] = defaultdict(set)
    for episode in export.episodes:
        if episode.tree_digest is not None:
            found[episode.uid].add(episode.tree_digest)
    if not found:
        return Check("policy files", Outcome.SKIPPED, "the export has no tree digests")
    owners: defaultdict[str, list[int]] = defaultdict(list)
    for uid in sorted(competing & found.keys()):
        for digest in found[uid]:
            owners[digest].append(uid)
    wrong = [
        f"uid {uid} ran with {len(trees)} different sets of files" for uid, trees in found.items() if len(trees) > 1
    ]
    wrong += [f"uids {uids} compete with the same files" for uids in owners.values() if len(uids) > 1]
    return _verdict("policy files", wrong, f"one tree digest for each of {len(found)} miners, none shared")


def _check_image_digests(export: CycleExport) -> Check:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for episode in export.episodes:
        if episode.image_digest is not None:
            found[episode.env_id].add(episode.image_digest)
    if not found:
        return Check("images", Outcome.SKIPPED, "the export has no image digests")
    wrong = [f"{env_id} ran from {len(images)} different images" for env_id, images in found.items() if len(images) > 1]
    return _verdict("images", wrong, f"one image for each of {len(found)} environments")

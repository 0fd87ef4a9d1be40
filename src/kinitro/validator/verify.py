"""Whether published weights deserve a validator's signature. Pure; the backend is taken for a stranger."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from kinitro.chain import Subnet
from kinitro.errors import ConfigurationError, KinitroError
from kinitro.logs import printable
from kinitro.schemas import CycleExport, RuleOut, WeightsOut, WeightsU16
from kinitro.scoring import InvalidExport, score_cycle, settle_weights
from kinitro.scoring.check import Outcome, check_export
from kinitro.scoring.weights import scale_u16
from kinitro.types import CycleStatus

MAX_SKEW_BLOCKS = 20
"""How far behind the backend's our node may be."""
_SUM_TOLERANCE = 1e-6
_TOLERANCE = 1e-9


class WeightsRefused(KinitroError):
    """The published weights don't hold up: nothing of them is set."""


class NoWeightsYet(KinitroError):
    """The backend has published none so far."""


@dataclass(frozen=True, slots=True)
class Verified:
    """Published weights that passed. `export_sha256` is that of the recomputed export; None when taken on trust."""

    published: WeightsOut
    burn_uid: int | None
    export_sha256: str | None


def check_place(published: WeightsOut, netuid: int, genesis: str) -> None:
    """Raises `ConfigurationError` when the weights are meant for another subnet or another chain."""
    if published.netuid != netuid:
        raise ConfigurationError(
            f"The backend publishes weights of netuid {published.netuid}; this validator sets those of {netuid}.",
            advice=f"Use --netuid {published.netuid}, or the --backend-url of netuid {netuid}'s backend.",
        )
    if published.genesis != genesis:
        raise ConfigurationError(
            f"The backend's weights are for the chain with genesis {printable(published.genesis, 80)}; "
            f"this chain's is {genesis}.",
            advice="Use the --network that the backend's scheduler runs on, or another --backend-url.",
        )


def check_age(published: WeightsOut, block: int) -> None:
    """Raises `WeightsRefused` when the weights have expired at the chain's present block, or are of a later one."""
    if block >= published.expires_at_block:
        raise WeightsRefused(
            f"Cycle {published.cycle_id}'s weights expired at block {published.expires_at_block}; "
            f"the chain is at {block}.",
            advice="The backend has published nothing newer: its /v1/status says why.",
        )
    if published.block_number > block + MAX_SKEW_BLOCKS:
        raise WeightsRefused(
            f"Cycle {published.cycle_id}'s weights are of block {published.block_number}, "
            f"but the chain's latest finalized block is {block}.",
            advice="The node of --network is behind: wait until it has caught up, or use another.",
        )


def check_form(published: WeightsOut) -> None:
    """Raises `WeightsRefused` unless the weights are shares of a whole and the chain's form of them is the same."""
    weights = published.weights
    problem = None
    if not all(0 <= uid <= 65535 for uid in weights):
        problem = "they name a uid that can't exist"
    elif not all(math.isfinite(weight) and 0 <= weight <= 1 for weight in weights.values()):
        problem = "a weight is not between 0 and 1"
    elif abs(math.fsum(weights.values()) - 1) > _SUM_TOLERANCE:
        problem = f"they sum to {math.fsum(weights.values())}, not to 1"
    elif differences := _u16_differences(published.weights_u16, scale_u16(weights)):
        problem = f"weights_u16 says something else: {_few(differences)}"
    if problem:
        raise _refusal(published.cycle_id, f"are malformed: {problem}")


def recompute(published: WeightsOut, export: CycleExport) -> None:
    """Raises `WeightsRefused`, with what differs, unless the weights follow from the cycle's own export.

    It must be the same cycle, complete, keep to its published salt and seeds, and score to the same weights.
    """
    _check_same_cycle(published, export)
    failed = [f"{check.name}: {check.detail}" for check in check_export(export) if check.outcome is Outcome.FAILED]
    if failed:
        raise _refusal(published.cycle_id, f"rest on an export that does not hold: {_few(failed)}")
    try:
        score = score_cycle(export)
    except InvalidExport as error:
        raise _refusal(published.cycle_id, f"rest on an export that can't be scored: {error.message}") from None
    differences = [
        *_differences(published.weights, score.weights),
        *_hotkey_differences(published, {miner.uid: miner.hotkey for miner in export.miners}),
    ]
    if differences:
        raise _refusal(published.cycle_id, f"don't follow from its export: {_few(differences)}")


def check_block_hash(published: WeightsOut, export: CycleExport, block_hash: str) -> None:
    """Raises `WeightsRefused` unless the cycle's seeds come from the chain's own hash of its target block."""
    if export.block_hash != block_hash:
        raise _refusal(
            published.cycle_id,
            f"rest on seeds that are not the chain's: its block {export.target_block} has hash {block_hash}, "
            f"the export says {export.block_hash}",
        )


def burn_uid_of(published: WeightsOut) -> int | None:
    """The burn uid of the rule that the weights are published with, for those who don't read the export."""
    try:
        return RuleOut.model_validate(published.metadata.get("rule")).burn_uid
    except ValidationError:
        return None


def settle(verified: Verified, subnet: Subnet) -> dict[int, float]:
    """The weights to set now, by uid: a uid that has changed hands loses its share.

    Raises `WeightsRefused` when nothing is left.
    """
    published = verified.published
    current = {neuron.uid: neuron.hotkey for neuron in subnet.neurons}
    burn_uid = verified.burn_uid if verified.burn_uid in current else None
    settled = settle_weights(published.weights, published.hotkeys, current, burn_uid)
    if not settled:
        raise WeightsRefused(
            f"Nothing is left of cycle {published.cycle_id}'s weights: "
            "every uid with a share has another hotkey by now, and there is no burn uid.",
            advice="The next cycle's weights will name the present hotkeys.",
        )
    return settled


def lost_uids(verified: Verified, subnet: Subnet) -> list[int]:
    """Uids with a published share whose hotkey is another by now."""
    current = {neuron.uid: neuron.hotkey for neuron in subnet.neurons}
    published = verified.published
    return sorted(
        uid
        for uid, weight in published.weights.items()
        if weight > 0 and uid != verified.burn_uid and current.get(uid) != published.hotkeys.get(uid)
    )


def _check_same_cycle(published: WeightsOut, export: CycleExport) -> None:
    pairs = [
        ("cycle", published.cycle_id, export.cycle_id),
        ("netuid", published.netuid, export.netuid),
        ("genesis", published.genesis, export.genesis),
        ("status", CycleStatus.COMPLETED.value, export.status.value),
    ]
    wrong = [f"{name} {found} instead of {wanted}" for name, wanted, found in pairs if wanted != found]
    if not 0 <= export.target_block <= published.block_number:
        wrong.append(f"target block {export.target_block}, not before the weights' own {published.block_number}")
    if wrong:
        raise _refusal(published.cycle_id, f"come with the export of something else: {_few(wrong)}")


def _differences(published: Mapping[int, float], computed: Mapping[int, float]) -> list[str]:
    return [
        f"uid {uid} is published with {published.get(uid, 0.0):.6g}, the export gives {computed.get(uid, 0.0):.6g}"
        for uid in sorted({*published, *computed})
        if abs(published.get(uid, 0.0) - computed.get(uid, 0.0)) > _TOLERANCE
    ]


def _hotkey_differences(published: WeightsOut, miners: Mapping[int, str]) -> list[str]:
    """A burn uid is no miner of the cycle, so the export can't say whose it was."""
    return [
        f"uid {uid} is published as {published.hotkeys.get(uid)}, the export says {miners[uid]}"
        for uid in sorted(published.weights)
        if uid in miners and published.hotkeys.get(uid) != miners[uid]
    ]


def _u16_differences(published: WeightsU16, computed: WeightsU16) -> list[str]:
    if len(published.uids) != len(published.values) or len(set(published.uids)) != len(published.uids):
        return ["its uids and values don't pair"]
    theirs = dict(zip(published.uids, published.values, strict=True))
    ours = dict(zip(computed.uids, computed.values, strict=True))
    # Rounding may differ by one where the platform's powers do.
    return [
        f"uid {uid} has {theirs.get(uid, 0)}, its weight gives {ours.get(uid, 0)}"
        for uid in sorted({*theirs, *ours})
        if abs(theirs.get(uid, 0) - ours.get(uid, 0)) > 1
    ]


def _few(parts: Iterable[str]) -> str:
    found = list(parts)
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    return "; ".join(found[:3]) + more


def _refusal(cycle_id: int, what: str) -> WeightsRefused:
    return WeightsRefused(
        f"Cycle {cycle_id}'s weights {printable(what)}.",
        advice=f"Nothing was set. Look for yourself: `kinitro export {cycle_id} -o cycle.json` with --api-url the "
        "backend's, then `kinitro score cycle.json`; and tell the backend's operator.",
    )

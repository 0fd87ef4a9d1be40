"""Points to weights, and what of them is left when hotkeys have changed (contracts section 8)."""

import math
from collections.abc import Mapping

from kinitro.schemas import WeightsU16

U16_MAX = 65535


def share_weights(points: Mapping[int, int], temperature: float, burn_uid: int | None) -> dict[int, float]:
    """Uid to weight, by uid: proportional to points^(1/temperature), summing to 1; zeros left out.

    Everything goes to `burn_uid` when nobody has points, and nothing to anyone when it is None too.
    """
    top = max(points.values(), default=0)
    if top == 0:
        return {} if burn_uid is None else {burn_uid: 1.0}
    # Relative to the top, since a small temperature would take 64^(1/t) beyond any float.
    return _normalised({uid: (count / top) ** (1.0 / temperature) for uid, count in points.items() if count > 0})


def settle_weights(
    weights: Mapping[int, float], published: Mapping[int, str], current: Mapping[int, str], burn_uid: int | None
) -> dict[int, float]:
    """Weights to set when `current` hotkeys of the uids may differ from the `published` ones.

    A uid that changed hands loses its share to `burn_uid`; without one the rest is renormalised. Empty when nothing
    is left.
    """
    kept = {
        uid: weight
        for uid, weight in weights.items()
        if uid == burn_uid or (uid in published and current.get(uid) == published[uid])
    }
    if burn_uid is not None and len(kept) < len(weights):
        lost = math.fsum(weight for uid, weight in weights.items() if uid not in kept)
        kept[burn_uid] = kept.get(burn_uid, 0.0) + lost
    return _normalised(kept)


def scale_u16(weights: Mapping[int, float]) -> WeightsU16:
    """The chain's form: the largest becomes 65535, the others scaled and rounded, zeros dropped; by uid."""
    top = max(weights.values(), default=0.0)
    scaled = {uid: round(weights[uid] / top * U16_MAX) for uid in sorted(weights) if top > 0}
    kept = {uid: value for uid, value in scaled.items() if value > 0}
    return WeightsU16(uids=list(kept), values=list(kept.values()))


def _normalised(weights: Mapping[int, float]) -> dict[int, float]:
    total = math.fsum(weights.values())
    return {uid: weights[uid] / total for uid in sorted(weights) if weights[uid] > 0}

"""Evidence from paired outcomes: a mixture of betting martingales, its thresholds, and the intervals it gives.

Evidence may be looked at after every cycle: by Ville's inequality it exceeds log(1/alpha) with probability at most
alpha, ever, when there is nothing to find (contracts section 8; Waudby-Smith and Ramdas, betting).
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

BETS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
"""Shares of its wealth that each bettor of the mixture stakes on every episode."""

_Z_95 = 1.959963984540054
_GRID_STEP = 0.001


def log_evidence(wins: ArrayLike, ties: ArrayLike, losses: ArrayLike, margin: float) -> NDArray[np.float64]:
    """Log of the evidence that the success rate is higher by more than `margin` (-1 to 1).

    Counts broadcast against each other and give the result's shape; any size up to 10**8 and beyond is stable.
    A bettor who could lose more than all it has (possible for margins above 0.11) does not play and counts as broke,
    which keeps the mixture a martingale and the evidence falling as the margin grows.
    """
    bets = np.array([bet for bet in BETS if bet * (1.0 + margin) < 1.0])
    won, tied, lost = np.log1p(bets * (1.0 - margin)), np.log1p(-bets * margin), np.log1p(-bets * (1.0 + margin))
    logs = np.multiply.outer(wins, won) + np.multiply.outer(ties, tied) + np.multiply.outer(losses, lost)
    largest = logs.max(axis=-1)
    mixture: NDArray[np.float64] = largest + np.log(np.exp(logs - largest[..., None]).sum(axis=-1) / len(BETS))
    return mixture


def overtaking_threshold(places_behind: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Evidence a challenger needs, by how many places it stands behind the holder (1 or more).

    Spends alpha over an endless line of challengers: 6 / pi^2 / j^2 of it on the j-th.
    """
    threshold: NDArray[np.float64] = np.log((math.pi * np.asarray(places_behind, dtype=np.float64)) ** 2 / (6 * alpha))
    return threshold


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a rate. (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    rate, z2 = successes / trials, _Z_95**2 / trials
    middle = rate + z2 / 2
    spread = _Z_95 * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials))
    # At the ends the formula gives 0 and 1 up to rounding.
    low = 0.0 if successes == 0 else max(0.0, (middle - spread) / (1 + z2))
    high = 1.0 if successes == trials else min(1.0, (middle + spread) / (1 + z2))
    return low, high


def difference_interval(wins: int, ties: int, losses: int, alpha: float) -> tuple[float, float]:
    """A confidence interval of the difference in success rates that stays valid however often one looks.

    Every difference d on a grid of 0.001 that the evidence refutes is left out, each side at alpha / 2; (-1, 1)
    without episodes.
    """
    return _lower_bound(wins, ties, losses, alpha / 2), -_lower_bound(losses, ties, wins, alpha / 2)


def _lower_bound(wins: int, ties: int, losses: int, alpha: float) -> float:
    """Largest refuted "better by no more than d"; evidence falls as d grows, so a search by halves finds it."""
    steps = round(1 / _GRID_STEP)
    low, high = -steps, steps
    while low < high:
        middle = (low + high + 1) // 2
        if log_evidence(wins, ties, losses, (middle - 1) / steps) >= math.log(1 / alpha):
            low = middle
        else:
            high = middle - 1
    # -1 itself is certain; any other `low` has a refuted neighbour below it, which is the bound.
    return max(low - 1, -steps) / steps

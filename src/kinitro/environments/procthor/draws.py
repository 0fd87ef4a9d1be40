"""Random draws that are the same for a seed in every process, on every machine and under every numpy."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draws:
    """A stream of draws. Built on raw 64-bit output, which numpy promises never to change for a seed; the methods of
    its `Generator` carry no such promise.
    """

    def __init__(self, *entropy: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(entropy))

    def unit(self) -> float:
        """From 0 up to, not including, 1."""
        return float(int(self._bits.random_raw()) >> 11) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        """Evenly from `low` to `high`."""
        return low + (high - low) * self.unit()

    def below(self, count: int) -> int:
        """0 to `count` - 1."""
        return int(self.unit() * count)

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return self.unit() < share

    def pick(self, items: Sequence[T]) -> T:
        """One of them."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All of them in a new order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(len(left))]

"""Which processors of a Docker host belong to which episode, so that nobody is late because of somebody else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager


class Cores:
    """The processors of one host. Each episode has `each` of them for itself; `kept` are never given to any.

    An environment and its policy wait for each other, so that they share what their episode has. Everything else, from
    policies that are starting to the engine itself, has what is left.
    """

    def __init__(self, ids: Sequence[int], kept: int, each: int) -> None:
        kept = min(kept, len(ids) - 1)
        self._kept = tuple(ids[:kept])
        self._free = list(ids[kept:])
        self._each = min(each, len(self._free))
        self._given = asyncio.Condition()
        self.episodes = len(self._free) // self._each
        """How many episodes at once."""

    @property
    def common(self) -> tuple[int, ...]:
        """What no episode has now; empty when all is taken and nothing was kept."""
        return (*self._kept, *self._free)

    @asynccontextmanager
    async def take(self) -> AsyncIterator[tuple[int, ...]]:
        """One episode's processors, for the length of the block; waits until there are enough."""
        async with self._given:
            await self._given.wait_for(lambda: len(self._free) >= self._each)
            # The last first: what else runs keeps as much of where it is as possible.
            taken = [self._free.pop() for _ in range(self._each)]
        try:
            yield tuple(taken)
        finally:
            self._free = sorted([*self._free, *taken])
            await asyncio.shield(self._tell())

    async def _tell(self) -> None:
        async with self._given:
            self._given.notify_all()


def as_cpuset(ids: Sequence[int]) -> str:
    """As the engine takes it."""
    return ",".join(str(one) for one in ids)

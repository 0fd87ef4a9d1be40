"""Notices when this process's own event loop was held up, so that our lateness is never taken for a policy's."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

TICK_S = 0.01
_NOTED_S = 0.005
_KEPT = 4096


class StallMonitor:
    """A task that ticks every 10 ms while entered; a late tick is a stall of the loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = clock() + TICK_S
        self._stalls: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._due = self._clock() + TICK_S
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait({self._ticker})

    def longest_stall_s(self, since: float) -> float:
        """The longest time, between `since` (on the monitor's clock) and now, for which the loop did not run.

        A stall that had begun before `since` counts from `since`; one that is still unnoticed by the ticker counts too.
        """
        periods = [*self._stalls, (self._due, self._clock())]
        return max(0.0, *(end - max(begin, since) for begin, end in periods))

    def stall_at_s(self, moment: float) -> float:
        """For how long the loop stood still around `moment` (on the monitor's clock, past); 0 when it ran then."""
        periods = [*self._stalls, (self._due, self._clock())]
        return max((end - begin for begin, end in periods if begin <= moment <= end), default=0.0)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = self._clock()
            if now - self._due > _NOTED_S:
                self._stalls.append((self._due, now))
            self._due = now + TICK_S

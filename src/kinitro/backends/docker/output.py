"""Ends policies that flood their output.

The engine works for every line: a policy that writes empty lines costs it a whole processor, and hardly any of its own.
The log's size is limited by the engine, its pace here.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from kinitro.backends.docker.container import DockerRun
from kinitro.errors import InfrastructureError

LINES = 1000
BYTES = 256 * 1024
_LOOK_S = 3.0
_STRIKES = 3
NOTE = f"[killed: it went on writing more than {LINES} lines or {BYTES // 1024} KiB a second to its output]"


@dataclass(frozen=True)
class Pace:
    """How fast the last lines of an output came. `last` is when the last one did, as the engine writes it."""

    last: str
    is_flood: bool


def pace_of(stamped: bytes) -> Pace | None:
    """The pace of at most `LINES` lines, each behind the engine's time stamp; None without any."""
    lines = stamped.splitlines()
    stamps = [line.split(b" ", 1)[0].decode(errors="replace") for line in (lines[:1] + lines[-1:])]
    try:
        first, last = (datetime.fromisoformat(stamp[:26]) for stamp in stamps)  # to the microsecond
    except ValueError:
        return None
    much = len(lines) >= LINES or len(stamped) >= BYTES
    return Pace(stamps[1], much and (last - first).total_seconds() < 1.0)


@dataclass
class OutputWatch:
    """Looks at the output of `policies()` every few seconds, until cancelled."""

    policies: Callable[[], Iterable[DockerRun]]
    _strikes: dict[str, tuple[str, int]] = field(default_factory=dict)

    async def run(self) -> None:
        """A policy whose output was a flood at three looks in a row, new each time, is ended."""
        while True:
            await asyncio.sleep(_LOOK_S)
            running = list(self.policies())
            names = {run.place.name for run in running}
            self._strikes = {name: value for name, value in self._strikes.items() if name in names}
            for run in running:
                await self._look(run)

    async def _look(self, run: DockerRun) -> None:
        try:
            pace = pace_of(await run.stamped_output(LINES))
            last, strikes = self._strikes.get(run.place.name, ("", 0))
            if pace is None or pace.last == last:
                return
            strikes = strikes + 1 if pace.is_flood else 0
            self._strikes[run.place.name] = (pace.last, strikes)
            if strikes >= _STRIKES:
                await run.end(NOTE)
        except InfrastructureError:  # the engine is away; others say so
            return

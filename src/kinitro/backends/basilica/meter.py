"""What this run's deployments have cost so far, as far as that can be known here: how many, and how long they lived."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kinitro.backends.base import Role


@dataclass(frozen=True)
class Usage:
    """Deployments of one role since the executor started: made, existing now, and seconds that all of them existed."""

    created: int
    alive: int
    seconds: float


class Meter:
    """Counts deployments from when they are asked for to when the service has been told to delete them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._created = dict.fromkeys(Role, 0)
        self._ended_s = dict.fromkeys(Role, 0.0)
        self._alive: dict[str, tuple[Role, float]] = {}

    def begin(self, name: str, role: Role) -> None:
        """One more exists."""
        self._created[role] += 1
        self._alive[name] = (role, self._clock())

    def end(self, name: str) -> None:
        """It exists no longer. Safe to call twice."""
        if name in self._alive:
            role, began = self._alive.pop(name)
            self._ended_s[role] += self._clock() - began

    def alive(self) -> set[str]:
        """What counts as existing now."""
        return set(self._alive)

    def usage(self) -> Mapping[str, Usage]:
        """By role."""
        now = self._clock()
        return {role.value: self._usage_of(role, now) for role in Role}

    def _usage_of(self, role: Role, now: float) -> Usage:
        begun = [began for each, began in self._alive.values() if each is role]
        return Usage(self._created[role], len(begun), self._ended_s[role] + sum(now - began for began in begun))

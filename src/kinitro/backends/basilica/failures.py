"""How often a deployment is paid for a policy that does not start, when nobody can show whose fault that is."""

import time
from collections.abc import Callable

from kinitro.backends.base import Source
from kinitro.errors import InfrastructureError

_FIRST_PAUSE_S = 60.0
_LONGEST_PAUSE_S = 1800.0
_FREE = "basilica_"
"""Failures of the service itself: no deployment came of them."""


class Failures:
    """Policies whose latest deployments failed by our fault. Each failure in a row doubles the pause until the next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pauses: dict[tuple[str, str], tuple[float, float, InfrastructureError]] = {}

    def raise_if_too_soon(self, source: Source) -> None:
        """Raises the latest failure again while its pause lasts."""
        until, _, error = self._pauses.get(_key(source), (0.0, 0.0, None))
        if error is not None and (left_s := until - self._clock()) > 0:
            raise InfrastructureError(
                f"{error.message} No other deployment is made for it within the next {left_s:.0f} s.",
                code=error.code,
                advice=error.advice,
            )

    def add(self, source: Source, error: InfrastructureError) -> None:
        """Notes one."""
        if not error.code.startswith(_FREE):
            _, pause_s, _ = self._pauses.get(_key(source), (0.0, _FIRST_PAUSE_S / 2, error))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            self._pauses[_key(source)] = (self._clock() + pause_s, pause_s, error)

    def forget(self, source: Source) -> None:
        """It started."""
        self._pauses.pop(_key(source), None)


def _key(source: Source) -> tuple[str, str]:
    return source.repo.lower(), source.revision

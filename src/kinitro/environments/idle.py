"""Ends a server that nobody asks anything any more: whoever started it may have died in a way that leaves it behind."""

import asyncio
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send


class IdleExit:
    """Wraps a web application and knows how long ago its last request ended."""

    def __init__(self, app: ASGIApp, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._limit_s = limit_s
        self._clock = clock
        self._in_flight = 0
        self._last_end = clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request, counted while it lasts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1
            self._last_end = self._clock()

    async def expired(self) -> None:
        """Returns once no request has been in flight for the limit."""
        left_s = self._limit_s
        while left_s > 0:
            await asyncio.sleep(left_s)
            left_s = self._limit_s if self._in_flight else self._last_end + self._limit_s - self._clock()

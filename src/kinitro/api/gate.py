"""What every request passes before a route sees it: who calls, how big the body is, and what it cost."""

import asyncio
import contextlib
import time

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kinitro.api.access import AccessRule, Caller, Refusal, refusal
from kinitro.api.metrics import Metrics

MAX_BODY_BYTES = 4 * 1024 * 1024
BODY_DEADLINE_S = 30.0
DISCARD_DEADLINE_S = 2.0

_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class Gate:
    """ASGI middleware. Everything but reads must be allowed to call before a byte of its body is kept.

    The body is then counted as it arrives, whatever Content-Length says: past `MAX_BODY_BYTES` it is 413, and not
    complete within `BODY_DEADLINE_S` it is 408.
    """

    def __init__(self, app: ASGIApp, *, rule: AccessRule, metrics: Metrics) -> None:
        self._app = app
        self._rule = rule
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status_code = 500

        async def watch(message: Message) -> None:
            nonlocal status_code
            if message["type"] == "http.response.start":
                status_code = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, watch)
        finally:
            self._metrics.observe(scope["method"], _route(scope), status_code, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in _READS:
            await self._app(scope, receive, send)
            return
        incoming = _Incoming(receive)
        refused = refusal(self._rule, _caller(scope))
        body = refused if refused is not None else await incoming.read()
        if isinstance(body, Refusal):
            await incoming.discard()
            await _refuse(body, incoming.ended, scope, receive, send)
        elif body is not None:
            await self._app(scope, _Replay(body, receive), send)


class _Incoming:
    """A body as it arrives. `ended` tells whether all of it has."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def read(self) -> bytes | Refusal | None:
        """The whole body, or why not; None when the caller hung up."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_DEADLINE_S):
                while not self.ended:
                    parts.append(await self._part())
                    size += len(parts[-1])
                    if size > MAX_BODY_BYTES:
                        return Refusal(
                            413, f"The body is larger than {MAX_BODY_BYTES} bytes. Send fewer results at once."
                        )
        except TimeoutError:
            return Refusal(408, f"The body did not arrive within {BODY_DEADLINE_S:g} s. Send it again.")
        except ClientDisconnect:
            return None
        return b"".join(parts)

    async def discard(self) -> None:
        """Throws away what still comes, within limits: a connection closed on unread bytes is reset by the kernel, and
        the caller would never read why it was refused.
        """
        size = 0
        with contextlib.suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(DISCARD_DEADLINE_S):
                while not self.ended and size <= MAX_BODY_BYTES:
                    size += len(await self._part())

    async def _part(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.ended = True
            raise ClientDisconnect
        self.ended = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part


class _Replay:
    """A `receive` that gives a body already read, then whatever the connection has to say (a disconnect)."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _refuse(refused: Refusal, body_ended: bool, scope: Scope, receive: Receive, send: Send) -> None:
    headers = {} if body_ended else {"Connection": "close"}
    if refused.status_code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    response = JSONResponse({"detail": refused.detail}, status_code=refused.status_code, headers=headers)
    await response(scope, receive, send)


def _caller(scope: Scope) -> Caller:
    client = scope.get("client")
    return Caller(peer=client[0] if client else None, headers=tuple(scope["headers"]))


def _route(scope: Scope) -> str:
    """The route's template, never the path as sent: paths are endless and would fill the metrics."""
    return getattr(scope.get("route"), "path", "none")

import asyncio
import itertools
from collections.abc import Iterable

import pytest
from starlette.types import Message, Receive, Scope, Send

from kinitro.api import gate
from kinitro.api.access import AccessRule
from kinitro.api.gate import MAX_BODY_BYTES, Gate
from kinitro.api.metrics import Metrics


class Echo:
    """An app that answers 200 and remembers the bodies it was given."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        self.bodies.append(message["body"])
        assert not message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


async def post(
    app: Echo, parts: Iterable[bytes], headers: dict[bytes, bytes] | None = None, peer: str = "127.0.0.1"
) -> int:
    """Sends a body in parts; what is never sent is waited for, for ever."""
    local = {b"host": b"localhost", b"content-type": b"application/json"}
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "client": (peer, 1),
        "headers": list((local | (headers or {})).items()),
    }
    listed = list(parts)
    sent: list[Message] = []

    async def receive() -> Message:
        if not listed:
            await asyncio.Event().wait()
        part = listed.pop(0)
        if part == b"<hangs up>":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": part != b"<end>"}

    async def send(message: Message) -> None:
        sent.append(message)

    await Gate(app, rule=AccessRule(api_key=None), metrics=Metrics())(scope, receive, send)
    return sent[0]["status"] if sent else 0


async def test_a_body_in_parts_reaches_the_app_whole() -> None:
    app = Echo()
    assert await post(app, [b"one ", b"two ", b"<end>"]) == 200
    assert app.bodies == [b"one two <end>"]


async def test_a_body_over_the_limit_is_413_whatever_its_length_header_says() -> None:
    app = Echo()
    half = b"x" * (MAX_BODY_BYTES // 2 + 1)
    assert await post(app, [half, half, b"<end>"], {b"content-length": b"10"}) == 413
    assert app.bodies == []


async def test_a_body_that_trickles_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_DEADLINE_S", 0.05)
    monkeypatch.setattr(gate, "DISCARD_DEADLINE_S", 0.05)
    app = Echo()
    assert await post(app, [b"{"]) == 408
    assert app.bodies == []


async def test_a_caller_that_hangs_up_costs_nothing_more() -> None:
    app = Echo()
    assert await post(app, [b"{", b"<hangs up>"]) == 0
    assert app.bodies == []


async def test_a_caller_that_may_not_call_is_refused_and_its_body_thrown_away() -> None:
    app = Echo()
    assert await post(app, [b"a body", b"<end>"], peer="10.0.0.3") == 403
    assert app.bodies == []


async def test_a_refused_caller_whose_body_never_comes_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "DISCARD_DEADLINE_S", 0.05)
    assert await post(Echo(), [b"{"], peer="10.0.0.3") == 403


async def test_a_refused_caller_can_not_keep_it_reading_without_end() -> None:
    half = b"x" * (MAX_BODY_BYTES // 2 + 1)
    assert await post(Echo(), itertools.repeat(half, 50), peer="10.0.0.3") == 403

import asyncio
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinitro.environments.episode import STALL_EXCUSE_S
from kinitro.environments.stall import StallMonitor
from kinitro.errors import ConfigurationError, PolicyError
from kinitro.policy.client import Endpoint, PolicyClient
from kinitro.policy.codec import MAX_REPLY_BYTES, ActionSpace
from kinitro.policy.messages import Observation, TaskConfig

from .conftest import HEALTHY, RIGHT, http_reply, raw_server

SPACE = ActionSpace({"ee_twist": 6, "gripper": 1})
OBSERVATION = Observation({"ee_pos": np.zeros(3)})
TASK = TaskConfig("line/reach-v0", "line", "reach-v0", 1, "t")


async def act(url: str, timeout_s: float = 0.5) -> PolicyError | None:
    """The error of one act after a good reset."""
    async with PolicyClient(url) as client:
        await client.reset(TASK)
        try:
            await client.act(OBSERVATION, SPACE, timeout_s)
        except PolicyError as error:
            assert client.last_wait.seconds < timeout_s + 2
            return error
    return None


def replying(*parts: bytes, pause_s: float = 0.0, close: bool = False):
    async def handler(_path, _body, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if close:
            writer.close()

    return handler


DRIP = [bytes([byte]) for byte in http_reply(RIGHT)]


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (replying(http_reply(RIGHT), pause_s=0.0), None),
        (replying(), "timeout"),
        (replying(b"HTTP/1.1 200 OK\r\n"), "timeout"),
        (replying(*DRIP, pause_s=0.02), "timeout"),
        (replying(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * 20, pause_s=0.05), "timeout"),
        (replying(b"HTTP/1.1 100 Continue\r\n\r\n" * 5000), "malformed_reply"),
        (replying(http_reply({}, status="307 Moved", headers="Location: http://127.0.0.1:1/act\r\n")), "redirect"),
        (replying(http_reply({"error": "no\x00pe"}, status="500 Oops")), "http_error"),
        (replying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "malformed_reply"),
        (replying(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"), "malformed_reply"),
        (replying(http_reply(b"\x00" * (MAX_REPLY_BYTES + 1))), "oversized_reply"),
        (replying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", close=True), "disconnected"),
        (
            replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 50_000),
            "malformed_reply",
        ),
        (replying(close=True), "disconnected"),
        (replying(http_reply(b"\x1f\x8b\x08", headers="Content-Encoding: gzip\r\n")), "malformed_reply"),
        (replying(http_reply(b"[" * 100_000)), "malformed_reply"),
        (replying(http_reply({"action": {"continuous": {"ee_twist": [0]}}})), "malformed_action"),
        (replying(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(RIGHT).encode(), close=True), None),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
async def test_each_way_to_answer_badly_has_its_code(raw_policy, handler, code) -> None:
    error = await act(await raw_policy(handler))
    assert (error.code if error else None) == code
    assert "\x00" not in str(error)


HEAD = b"HTTP/1.1 200 OK\r\n"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([b"", HEAD, HEAD + b"Content-Length: 20\r\n\r\n"]), st.binary(max_size=300))
def test_any_bytes_on_the_wire_are_the_policys_error(head: bytes, rest: bytes) -> None:
    async def episode() -> PolicyError | None:
        async with raw_server(replying(head + rest, close=True)) as url, PolicyClient(url) as client:
            client.episode_id = "e"
            try:
                await client.act(OBSERVATION, SPACE, 0.5)
            except PolicyError as error:
                return error
        return None

    error = asyncio.run(episode())
    assert error is not None
    assert error.code in {"disconnected", "malformed_reply", "http_error", "redirect", "timeout"}


async def test_an_endless_body_is_cut_off_at_the_limit(raw_policy) -> None:
    async def handler(_path, _body, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()

    error = await act(await raw_policy(handler), timeout_s=5.0)
    assert error is not None
    assert error.code == "oversized_reply"


async def test_nobody_listening_is_a_disconnected_policy() -> None:
    async with PolicyClient("http://127.0.0.1:1") as client:
        with pytest.raises(PolicyError) as caught:
            await client.health()
    assert caught.value.code == "disconnected"


async def test_a_name_that_does_not_resolve_is_a_disconnected_policy() -> None:
    async with PolicyClient(f"http://{'a' * 70}.invalid") as client:
        with pytest.raises(PolicyError) as caught:
            await client.health()
    assert caught.value.code == "disconnected"


async def test_proxies_of_the_environment_are_ignored(raw_policy, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert await act(await raw_policy(replying(http_reply(RIGHT)))) is None


async def test_one_connection_serves_a_whole_episode(raw_policy) -> None:
    ports = set()

    async def handler(_path, _body, writer):
        ports.add(writer.get_extra_info("peername"))
        writer.write(http_reply(RIGHT))

    async with PolicyClient(await raw_policy(handler)) as client:
        await client.reset(TASK)
        for _ in range(20):
            await client.act(OBSERVATION, SPACE, 0.5)
    assert len(ports) == 1


@pytest.mark.parametrize("goodbye", ["", "Connection: close\r\n"])
async def test_a_server_that_closes_after_each_reply_works(raw_policy, goodbye: str) -> None:
    handler = replying(http_reply(RIGHT, headers=goodbye), close=True)
    async with PolicyClient(await raw_policy(handler)) as client:
        await client.reset(TASK)
        for _ in range(20):
            action = await client.act(OBSERVATION, SPACE, 0.5)
            assert action.continuous["ee_twist"][0] == 1.0


async def test_a_late_reply_is_never_taken_for_the_next_one(raw_policy) -> None:
    asked = 0

    async def handler(_path, _body, writer):
        nonlocal asked
        asked += 1
        value = float(asked) / 10
        if asked == 1:
            await asyncio.sleep(0.15)
        writer.write(http_reply({"action": {"continuous": {"gripper": [value]}}}))

    async with PolicyClient(await raw_policy(handler)) as client:
        await client.reset(TASK)
        with pytest.raises(PolicyError, match=r"within 0\.1 s"):
            await client.act(OBSERVATION, SPACE, 0.1)
        await asyncio.sleep(0.1)
        action = await client.act(OBSERVATION, SPACE, 0.5)
    assert action.continuous["gripper"].tolist() == [0.2]


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"HTTP/1.1 103 x\r\n" + b"a:\n" * 19_900 + b"\r\n", id="very many headers"),
        pytest.param((b"HTTP/1.1 103 x\r\n" + b"a:\n" * 100 + b"\r\n") * 200, id="very many interim replies"),
        pytest.param(HEAD + b"a:" + b" " * 8000 + b"\0\r\n\r\n", id="blanks and a control character in a header"),
        pytest.param(HEAD + b"a:" + b" " * 8000 + b"\rb\r\n\r\n", id="blanks and a bare return in a header"),
        pytest.param(CHUNKED + b"1\r\n \r\n" * 60_000, id="very many chunks"),
        pytest.param(CHUNKED + b"1;" + b" " * 30_000 + b"\n\r\n", id="blanks after a chunk's size"),
        pytest.param(CHUNKED + b"0\r\n" + b"a:\n" * 15_000 + b"\r\n", id="very many trailers"),
        pytest.param(CHUNKED + b"0\r\na:" + b" " * 8000 + b"\0\r\n\r\n", id="blanks in a trailer"),
    ],
)
async def test_no_reply_holds_our_loop_up_and_so_excuses_its_policy(raw_policy, reply: bytes) -> None:
    url = await raw_policy(replying(reply))
    # On this clock only work takes time: a busy machine makes no stall.
    async with StallMonitor(time.thread_time) as monitor:
        since = time.thread_time()
        error = await act(url)
        assert monitor.longest_stall_s(since) < STALL_EXCUSE_S / 3
    assert error is not None
    assert error.code == "malformed_reply"


async def test_a_reply_in_plain_chunks_up_to_the_size_limit_is_read(raw_policy) -> None:
    document = json.dumps(RIGHT).encode().ljust(MAX_REPLY_BYTES)
    chunks = [document[start : start + 65536] for start in range(0, len(document), 65536)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert await act(await raw_policy(replying(b"HTTP/1.1 103 Hints\r\n\r\n" + CHUNKED + body)), 10.0) is None


async def test_a_reply_sent_before_it_was_asked_for_is_not_read(raw_policy) -> None:
    left, right = ({"action": {"continuous": {"gripper": [value]}}} for value in (0.25, 0.75))
    replies = iter([http_reply(left) + http_reply(left), http_reply(right)])

    async def handler(_path, _body, writer):
        writer.write(next(replies))

    async with PolicyClient(await raw_policy(handler)) as client:
        await client.reset(TASK)
        actions = [await client.act(OBSERVATION, SPACE, 0.5) for _ in range(2)]
    assert [action.continuous["gripper"].tolist() for action in actions] == [[0.25], [0.75]]


async def test_a_prefix_and_msgpack_are_used_when_given(raw_policy) -> None:
    seen = []

    async def handler(path, body, writer):
        seen.append((path, body[:1]))
        document = {"status": "ok", "episode_id": "e"} if path.endswith("reset") else {
            "status": "healthy", "model_loaded": True, "uptime_seconds": 0, "formats": ["json", "msgpack"],
        }  # fmt: skip
        writer.write(http_reply(document))

    url = await raw_policy(handler, everything=True)
    async with PolicyClient(f"{url}/robot/") as client:
        await client.health()
        await client.reset(TASK)
    assert seen == [("/robot/health", b""), ("/robot/reset", b"\x81")]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:80",
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://u:p@host",
        "http://h?q=1",
        "http://h#f",
        "http://h/a b",
        "http://h\r\nX: 1",
        "http://hé",
        "file:///etc/passwd",
    ],
)
def test_an_address_that_is_no_plain_http_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="address"):
        Endpoint.parse(url)


def test_an_ipv6_address_keeps_its_brackets() -> None:
    assert Endpoint.parse("http://[::1]:8000").host_header == "[::1]:8000"


@pytest.mark.parametrize("authorization", [None, "Bearer secret"])
async def test_in_public_a_broken_connection_is_tried_once_more_as_the_same_request(authorization) -> None:
    heads: list[dict[str, str]] = []

    async def break_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:]
        heads.append(dict(line.split(": ", 1) for line in lines if line))
        if len(heads) > 1:
            writer.write(http_reply(HEALTHY))
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(break_first, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with PolicyClient(url, authorization=authorization) as client:
            if authorization is None:
                with pytest.raises(PolicyError) as caught:
                    await client.health()
                assert caught.value.code == "disconnected"
                assert [("Authorization" in head, "Idempotency-Key" in head) for head in heads] == [(False, False)]
            else:
                assert (await client.health()).model_loaded
                assert {head["Authorization"] for head in heads} == {authorization}
                assert len({head["Idempotency-Key"] for head in heads}) == 1, "who is in front does it once"
                await client.health()
                assert len({head["Idempotency-Key"] for head in heads}) == 2

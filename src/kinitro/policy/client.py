"""Talks to a policy server that is not trusted: every call has one total deadline, and every reply a size limit.

HTTP/1.1 by h11 on plain asyncio streams: one request of 2 KB takes 0.38 ms where httpx takes 1.2 (bench/wire.py), there
is nothing that follows redirects or reads proxies from the environment, and the limits hold while bytes arrive.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit
from uuid import uuid4

import h11

from kinitro.errors import ConfigurationError, PolicyError
from kinitro.policy.codec import (
    MAX_REPLY_BYTES,
    ActionSpace,
    WireFormat,
    decode_action,
    decode_health,
    decode_reset,
    encode_act,
    encode_reset,
    oversized,
)
from kinitro.policy.messages import Action, Observation, PolicyHealth, TaskConfig

HEALTH_TIMEOUT_S = 5.0
RESET_TIMEOUT_S = 30.0
# A late loop excuses a late policy, so no reply may hold ours up: h11 parses 128 header lines or 1 KiB of chunks in a
# millisecond, and between two such pieces the loop turns.
_MAX_HEAD_BYTES = 8 * 1024
_MAX_HEAD_LINES = 128
_MAX_EVENTS = 2000
_READ_BYTES = 16 * 1024
_CHUNKED_READ_BYTES = 1024
_MAX_CHUNK_LINE_BYTES = 256
_HEAD_END = re.compile(rb"(?:\A|\n)\r?\n")
# Blanks before one of these take h11's header pattern quadratic time: 8 KiB of them 150 ms.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a policy listens. `prefix` is the path before `/act`, without a final slash."""

    secure: bool
    host: str
    port: int
    prefix: str

    @classmethod
    def parse(cls, base_url: str) -> "Endpoint":
        """Reads `http://host:port/prefix`.

        Raises:
            ConfigurationError: not http(s), no host, or with a user, a query or a fragment.
        """
        try:
            parts = urlsplit(base_url)
            port = parts.port
        except ValueError as error:
            raise _bad_url(base_url, str(error)) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _bad_url(base_url, "it must begin with http:// or https:// and name a host")
        if parts.username is not None or parts.query or parts.fragment:
            raise _bad_url(base_url, "it may hold no user, query or fragment")
        if not base_url.isascii() or not base_url.isprintable() or " " in base_url:
            raise _bad_url(base_url, "it may hold printable ASCII only")
        secure = parts.scheme == "https"
        return cls(secure, parts.hostname, port or (443 if secure else 80), parts.path.rstrip("/"))

    @property
    def host_header(self) -> str:
        """The `Host` header's value."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _bad_url(base_url: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"The policy's address {base_url[:200]!a} can't be used: {reason}.",
        advice="Example: http://127.0.0.1:8000",
    )


@dataclass(frozen=True, slots=True)
class Wait:
    """One wait for the policy, whether it ended with a reply or not. `started` is on the client's clock."""

    started: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    content_type: str
    body: bytes


class _Connection:
    """One kept-alive HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_CHUNK_LINE_BYTES)
        self._unparsed = bytearray()
        self.used = False

    @property
    def usable(self) -> bool:
        """False once the other side has closed it or a reply has ended it."""
        return self._http.our_state is h11.IDLE and not self._reader.at_eof() and not self._writer.is_closing()

    async def exchange(self, request: h11.Request, body: bytes, path: str) -> _Reply:
        """Sends a request and reads its whole reply. The caller sets the deadline."""
        events = (request, h11.Data(data=body), h11.EndOfMessage())
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        await self._writer.drain()
        response = await self._read_response()
        content = await self._read_body(path, chunked=b"transfer-encoding" in dict(response.headers))
        # What comes after a reply answers nothing that was asked: such a connection is not used again.
        surplus = self._unparsed or self._http.trailing_data[0]
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE and not surplus:
            self._http.start_next_cycle()
        self.used = True
        content_type = dict(response.headers).get(b"content-type", b"")
        return _Reply(response.status_code, content_type.decode("latin-1"), content)

    async def _read_response(self) -> h11.Response:
        """The reply's head. It and all interim (1xx) heads before it share one limit."""
        bytes_left, lines_left = _MAX_HEAD_BYTES, _MAX_HEAD_LINES
        while True:
            head = await self._read_head(bytes_left)
            bytes_left -= len(head)
            lines_left -= head.count(b"\n")
            if lines_left < 0:
                raise h11.RemoteProtocolError(f"its head has more than {_MAX_HEAD_LINES} lines")
            self._http.receive_data(head)
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                return event
            await asyncio.sleep(0)

    async def _read_head(self, limit: int) -> bytes:
        """Everything up to the next blank line, unparsed."""
        while (end := _HEAD_END.search(self._unparsed, 0, limit)) is None:
            self._refuse_control(len(self._unparsed))
            if len(self._unparsed) >= limit:
                raise h11.RemoteProtocolError(f"its head is larger than {_MAX_HEAD_BYTES} bytes")
            data = await self._reader.read(limit - len(self._unparsed))
            if not data and not self._unparsed:
                raise ConnectionResetError("the connection was closed before a reply")
            if not data:
                raise h11.RemoteProtocolError("the connection was closed within its head")
            self._unparsed += data
        self._refuse_control(end.end())
        return self._take(end.end())

    def _refuse_control(self, end: int) -> None:
        if _CONTROL.search(self._unparsed, 0, end):
            raise h11.RemoteProtocolError("its head holds a control character")

    def _take(self, count: int) -> bytes:
        taken = bytes(self._unparsed[:count])
        del self._unparsed[:count]
        return taken

    async def _read_body(self, path: str, *, chunked: bool) -> bytes:
        chunks: list[bytes] = []
        size = 0
        limit = _CHUNKED_READ_BYTES if chunked else _READ_BYTES
        for _ in range(_MAX_EVENTS):
            event = await self._next_event(limit)
            if not isinstance(event, h11.Data):
                return b"".join(chunks)
            size += len(event.data)
            if size > MAX_REPLY_BYTES:
                raise oversized(path)
            chunks.append(bytes(event.data))
        raise h11.RemoteProtocolError(f"the reply comes in more than {_MAX_EVENTS} pieces")

    async def _next_event(self, limit: int) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            # Reading what has already arrived would not let the loop turn.
            await asyncio.sleep(0)
            self._http.receive_data(self._take(limit) or await self._reader.read(limit))
        return event

    @property
    def ended(self) -> bool:
        """True once the other side has closed it."""
        return self._reader.at_eof()

    def close(self) -> None:
        """Drops the connection at once, without a goodbye that the other side could delay."""
        self._writer.transport.abort()


class PolicyClient:
    """One policy server and one kept-alive connection to it; one call at a time.

    `authorization` goes with every request, where a policy listens in public. `last_wait` is the latest call's wait for
    the policy, kept also when the call failed; `episode_id` is the policy's own word for the episode that the latest
    `reset` began. Every failure is a
    `PolicyError` whose `code` is `timeout`, `disconnected`, `redirect`, `http_error`, `oversized_reply`,
    `malformed_reply`, `malformed_action` or `unhealthy`; whether a late reply is really the policy's fault is for the
    episode loop to say.
    """

    def __init__(
        self, base_url: str, *, authorization: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._endpoint = Endpoint.parse(base_url)
        self._authorization = authorization
        self._clock = clock
        self._wire = WireFormat.JSON
        self.episode_id: str | None = None
        self._connection: _Connection | None = None
        self._tls = ssl.create_default_context() if self._endpoint.secure else None
        self.last_wait = Wait(started=clock(), seconds=0.0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()
        # The transport closes its socket in the loop's next turn.
        await asyncio.sleep(0)

    async def health(self, timeout_s: float = HEALTH_TIMEOUT_S) -> PolicyHealth:
        """Asks what the policy server can do; later calls use msgpack when it takes it."""
        reply = await self._call("GET", "/health", b"", timeout_s)
        health = decode_health(reply.body, WireFormat.of(reply.content_type))
        self._wire = WireFormat.MSGPACK if WireFormat.MSGPACK in health.formats else WireFormat.JSON
        return health

    async def reset(self, task: TaskConfig, timeout_s: float = RESET_TIMEOUT_S) -> None:
        """Starts an episode; `act` belongs to it from now on."""
        reply = await self._call("POST", "/reset", encode_reset(task, self._wire), timeout_s)
        self.episode_id = decode_reset(reply.body, WireFormat.of(reply.content_type))

    async def act(self, observation: Observation, space: ActionSpace, timeout_s: float) -> Action:
        """The policy's action for this observation, checked against the environment's space.

        Raises:
            RuntimeError: `reset` was not called first.
        """
        if self.episode_id is None:
            raise RuntimeError("PolicyClient.act was called before reset")
        body = encode_act(observation, self.episode_id, self._wire)
        reply = await self._call("POST", "/act", body, timeout_s)
        return decode_action(reply.body, WireFormat.of(reply.content_type), space)

    async def _call(self, method: str, path: str, body: bytes, timeout_s: float) -> _Reply:
        request = self._request(method, path, body)
        started = self._clock()
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._exchange(request, body, path)
        except TimeoutError:
            raise PolicyError(f"The policy did not answer {path} within {timeout_s:g} s.", code="timeout") from None
        finally:
            self.last_wait = Wait(started, self._clock() - started)
        return _accepted(reply, path)

    def _request(self, method: str, path: str, body: bytes) -> h11.Request:
        headers = [
            ("Host", self._endpoint.host_header),
            ("Content-Type", self._wire.content_type),
            ("Accept", self._wire.content_type),
            ("Content-Length", str(len(body))),
        ]
        if self._authorization is not None:
            # What is in front of such a policy passes a request of one key on once: see `_exchange`.
            headers += [("Authorization", self._authorization), ("Idempotency-Key", uuid4().hex)]
        return h11.Request(method=method, target=self._endpoint.prefix + path, headers=headers)

    async def _exchange(self, request: h11.Request, body: bytes, path: str) -> _Reply:
        try:
            connection = await self._connected()
            try:
                return await connection.exchange(request, body, path)
            except OSError:
                if not connection.used and self._authorization is None:
                    raise
            # A server may close an idle connection just as we use it again: once more, on a new one. In public the
            # way to a policy may break at any time.
            self._drop()
            return await (await self._connected()).exchange(request, body, path)
        except h11.RemoteProtocolError as error:
            gone = self._connection is not None and self._connection.ended
            self._drop()
            raise _unreadable(error, path, gone=gone) from error
        except (OSError, UnicodeError) as error:
            self._drop()
            reason = str(error) or type(error).__name__
            raise PolicyError(f"No connection to the policy for {path}: {reason}.", code="disconnected") from error
        except BaseException:
            # Cancelled, late or too large: what is still on its way must not be read as the next reply.
            self._drop()
            raise

    async def _connected(self) -> _Connection:
        if self._connection is not None and self._connection.usable:
            return self._connection
        self._drop()
        streams = await asyncio.open_connection(self._endpoint.host, self._endpoint.port, ssl=self._tls)
        self._connection = _Connection(*streams)
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _accepted(reply: _Reply, path: str) -> _Reply:
    if 300 <= reply.status < 400:
        raise PolicyError(f"The policy redirects {path}; redirects are not followed.", code="redirect")
    if reply.status != 200:
        raise PolicyError(
            f"The policy answers {path} with HTTP status {reply.status}: {ascii(reply.body[:200])[2:-1]}.",
            code="http_error",
        )
    return reply


def _unreadable(error: h11.RemoteProtocolError, path: str, *, gone: bool) -> PolicyError:
    if gone:
        return PolicyError(f"The policy closed the connection within its reply to {path}.", code="disconnected")
    return PolicyError(
        f"The policy's reply to {path} is not HTTP: {ascii(str(error)[:200])[1:-1]}.", code="malformed_reply"
    )

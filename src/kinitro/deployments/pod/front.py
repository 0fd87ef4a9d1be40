"""In front of a policy in public: lets in who knows the secret, passes requests on, and says how the policy is.

It runs as the policy's own user, so it trusts it with nothing: it has no token, its memory can't be read by others of
its user, and what it says of a policy counts only as long as it is the same process as at the start (`boot`).
"""

import contextlib
import ctypes
import hmac
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kinitro.backends.basilica.protocol import STATE_PATH, PodState
from kinitro.deployments.pod.replies import Replies, Reply

# Any in this file: requests and buffers as socketserver and io have them.

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_HOST = "127.0.0.1"
_MAX_REQUEST_BYTES = 64 * 1024 * 1024
_MAX_REPLY_BYTES = 1024 * 1024 + 1
"""One more than a caller takes: it must see that there is more."""
_IDLE_S = 130.0
_PASS_ON_S = 120.0
_STRANGER_S = 5.0
_STRANGER_BYTES = 16 * 1024
_STRANGERS = 256
"""What anybody gets who has not shown the secret: time and bytes for the head of one request, and a place."""


@dataclass(frozen=True)
class Served:
    """What is behind the front: a command in a folder, or the reason why there is none."""

    command: tuple[str, ...] = ()
    folder: str = "/"
    environment: Mapping[str, str] = field(default_factory=dict)
    fault: str | None = None
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class Orders:
    """All that the front is told. `served.message` is cut where it could fill a pipe."""

    secret: str
    port: int
    boot: str
    served: Served

    @classmethod
    def read(cls, text: str) -> "Orders":
        """As the pod's first life wrote them."""
        fields = json.loads(text)
        served = fields.pop("served")
        served |= {"command": tuple(served["command"])}
        return cls(**fields, served=Served(**served))


def run_front(orders: Orders) -> None:
    """Starts the policy and serves until told to stop."""
    _hide()
    policy = _Policy(orders)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _Server(orders, policy).serve_forever()
    finally:
        policy.end()


class _Policy:
    """The policy's process, listening on loopback alone."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._process: subprocess.Popen[bytes] | None = None
        self._problem: str | None = None
        with socket.create_server((_HOST, 0)) as probe:
            self.port: int = probe.getsockname()[1]
        if orders.served.fault is None:
            self._start(orders.served)

    def state(self) -> PodState:
        """How it is, for the executor."""
        orders, served = self._orders, self._orders.served
        if served.fault is not None:
            return PodState(orders.boot, fault=served.fault, code=served.code, message=served.message)
        if self._process is None:
            return PodState(orders.boot, fault="infrastructure", code="launch_failed", message=str(self._problem))
        return PodState(orders.boot, exit_code=self._process.poll())

    def end(self) -> None:
        """Kills it with its process group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _start(self, served: Served) -> None:
        values = {"{host}": _HOST, "{port}": str(self.port)}
        command = [_filled(part, values) for part in served.command]
        try:
            self._process = subprocess.Popen(
                command,
                cwd=served.folder,
                env=dict(served.environment),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - before the first thread
            )
        except OSError as error:
            self._problem = f"{command[0]}: {error.strerror}"


class _Strangers:
    """Connections whose callers have not shown the secret. Where there are too many, the oldest ends: who knows the
    secret sends it at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, None] = {}

    def add(self, connection: socket.socket) -> None:
        """A new one."""
        with self._lock:
            self._connections[connection] = None
            if len(self._connections) > _STRANGERS:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
                # Its own thread closes it, not before it could take the lock.
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)

    def remove(self, connection: socket.socket) -> None:
        """It is none any more, or about to be closed."""
        with self._lock:
            self._connections.pop(connection, None)


class _Incoming(io.RawIOBase):
    """What a connection sends: a stranger's within one deadline and a few bytes, however it is dealt out."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._end: float | None = time.monotonic() + _STRANGER_S
        self._left = _STRANGER_BYTES

    def trust(self) -> None:
        """The caller is known: no more than idleness ends it."""
        self._end = None
        self._connection.settimeout(_IDLE_S)

    def readable(self) -> bool:
        """It is read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Waits for some bytes. `TimeoutError` or `ConnectionError` when a stranger has had enough."""
        if self._end is None:
            return self._connection.recv_into(buffer)
        if (left_s := self._end - time.monotonic()) <= 0:
            raise TimeoutError("a stranger took too long")
        if self._left <= 0:
            raise ConnectionAbortedError("a stranger sent too much")
        self._connection.settimeout(left_s)
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, orders: Orders, policy: _Policy) -> None:
        self.authorization = f"Bearer {orders.secret}".encode()
        self.policy = policy
        self.replies = Replies()
        self.strangers = _Strangers()
        super().__init__(("0.0.0.0", orders.port), _Handler)  # noqa: S104 - a pod's port is public

    def process_request(self, request: Any, client_address: Any) -> None:
        """Everybody gets in, as a stranger."""
        self.strangers.add(request)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.strangers.remove(request)
            raise

    def finish_request(self, request: Any, client_address: Any) -> None:
        """One connection from its start to its end."""
        try:
            super().finish_request(request, client_address)
        finally:
            self.strangers.remove(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that goes away is no news; the rest goes into the pod's output."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as above


class _Handler(BaseHTTPRequestHandler):
    """One connection of a caller, and one to the policy kept with it."""

    protocol_version = "HTTP/1.1"
    # A reply goes out in one piece and at once; in two, each would wait for the other side's delayed acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server
    _upstream: http.client.HTTPConnection | None = None

    def setup(self) -> None:
        """Reads by our own rules."""
        super().setup()
        self.rfile.close()
        self._incoming = _Incoming(self.connection)
        self.rfile = io.BufferedReader(self._incoming)

    def do_GET(self) -> None:
        """Passes it on, or tells the state."""
        self._take()

    def do_POST(self) -> None:
        """Passes it on."""
        self._take()

    def finish(self) -> None:
        """The caller has gone."""
        if self._upstream is not None:
            self._upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Says nothing: the pod's output is the policy's."""

    def _take(self) -> None:
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), self.server.authorization):
            # Its body is not read, so nothing more can come on this connection.
            self._refuse(401, b"this policy answers its evaluator alone")
            return
        self.server.strangers.remove(self.connection)
        self._incoming.trust()
        if (body := self._body()) is not None:
            if self.path == STATE_PATH:
                self._send(Reply(200, "application/json", self.server.policy.state().body()))
            else:
                key = self.headers.get("Idempotency-Key")
                self._send(self.server.replies.once(key, lambda: self._pass_on(body)))

    def _body(self) -> bytes | None:
        """The whole body; None when it was refused."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > _MAX_REQUEST_BYTES:
            self._refuse(411, b"a body needs its length, of at most 64 MiB")
            return None
        return self.rfile.read(int(length))

    def _pass_on(self, body: bytes) -> Reply:
        headers = {name: self.headers[name] for name in ("Content-Type", "Accept") if name in self.headers}
        for again in (True, False):
            fresh = self._upstream is None
            if self._upstream is None:
                self._upstream = http.client.HTTPConnection(_HOST, self.server.policy.port, timeout=_PASS_ON_S)
            try:
                self._upstream.request(self.command, self.path, body, headers)
                reply = self._upstream.getresponse()
                content = reply.read(_MAX_REPLY_BYTES)
                if not reply.isclosed():
                    self._drop()
                return Reply(reply.status, reply.getheader("Content-Type", ""), content)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                # A server may close an idle connection just as it is used again: once more, on a new one.
                if fresh or not again or not isinstance(error, (ConnectionError, http.client.BadStatusLine)):
                    return Reply(502, "text/plain", f"no reply of the policy: {type(error).__name__}".encode())
        raise AssertionError("the second round returns")

    def _drop(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None

    def _refuse(self, status: int, why: bytes) -> None:
        self.close_connection = True
        self._send(Reply(status, "text/plain", why))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        if reply.content_type:
            self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.body)
        self.wfile.flush()


def _hide() -> None:
    """Others of our user can read neither our memory nor our environment, nor trace us."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _filled(part: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        part = part.replace(name, value)
    return part

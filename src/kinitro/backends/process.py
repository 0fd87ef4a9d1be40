"""Servers as plain processes of this machine. No isolation: for trusted policies only.

Every server runs under a supervisor (`supervisor.py`), so that its whole tree ends with us. Memory is limited for each
process, not for the tree; processors are a hint to numeric libraries; nothing else of `Limits`, and no network rule,
is enforced.
"""

import asyncio
import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path

from kinitro.backends import supervisor
from kinitro.backends.base import LOCAL_HOST, LaunchSpec, Limits, Memory, Running
from kinitro.backends.meminfo import read_meminfo
from kinitro.errors import InfrastructureError

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 20.0
_KILL_TIMEOUT_S = 10.0
_LOST = "supervisor_ended"
_RUN_MARKER = "KINITRO_RUN"
_THREAD_HINTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class ProcessBackend:
    """Starts servers on loopback ports. An async context manager: leaving it stops everything it started."""

    isolates = False
    enforces = frozenset({"memory_bytes"})

    def __init__(self) -> None:
        self._running: set[ProcessRun] = set()

    async def __aenter__(self) -> "ProcessBackend":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def hosts(self) -> Mapping[str, int | None]:
        """This machine; nothing is known of what its processors can take."""
        return {LOCAL_HOST: None}

    async def launch(self, spec: LaunchSpec) -> Running:
        """Starts it and returns at once. `InfrastructureError` (`launch_failed`) when the command can't be run."""
        run = ProcessRun(spec, on_stopped=self._running.discard)
        self._running.add(run)
        try:
            await run.start()
        except BaseException:
            await run.stop(grace_s=0.0)
            raise
        return run

    async def connect(self, caller: Running, callee: Running) -> None:
        """Nothing to do: nothing is shut off from anything."""

    @asynccontextmanager
    async def reserve(self, *_: Running) -> AsyncIterator[None]:
        """Reserves nothing: processes go where the system puts them."""
        yield

    async def memory(self, _host: str) -> Memory:
        """This machine's memory."""
        return await asyncio.to_thread(read_meminfo)

    async def close(self) -> None:
        """Stops everything this backend started."""
        await asyncio.gather(*(run.stop() for run in list(self._running)))


class ProcessRun:
    """One supervised command."""

    def __init__(self, spec: LaunchSpec, *, on_stopped: Callable[["ProcessRun"], None]) -> None:
        self._spec = spec
        self._on_stopped = on_stopped
        self._scratch = Path(tempfile.mkdtemp(prefix="kinitro-"))
        self._reservation = _reserve_port()
        self._port: int = self._reservation.getsockname()[1]
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._identity = ""
        self._exit_code: int | None = None
        self._lost: str | None = None

    @property
    def url(self) -> str:
        """Where the server is to listen."""
        return f"http://{_HOST}:{self._port}"

    @property
    def own_url(self) -> str:
        """The same: it is on this machine."""
        return self.url

    @property
    def host(self) -> str:
        """This machine."""
        return LOCAL_HOST

    @property
    def authorization(self) -> str | None:
        """None: only this machine can call it."""
        return None

    @property
    def identity(self) -> str:
        """The command's process number and start time."""
        return self._identity

    async def exit_code(self) -> int | None:
        """None while it lives; negative is the signal that ended it.

        `InfrastructureError` (`supervisor_ended`) when it was not its own doing: its supervisor was stopped or killed.
        """
        if self._exit_code is None and self._lost is not None:
            raise InfrastructureError(f"{self._spec.name} was ended from outside: {self._lost}.", code=_LOST)
        return self._exit_code

    async def logs(self, lines: int = 20) -> str:
        """Its last lines of output."""
        text = await asyncio.to_thread(_read_logs, self._log)
        return "\n".join(text.splitlines()[-lines:])

    async def pause(self) -> None:
        """Nothing: a plain process goes on."""

    async def resume(self) -> None:
        """Nothing: it was not paused."""

    async def stop(self, grace_s: float = 2.0) -> None:
        """Ends it and everything it started; a caller that is cancelled does not cancel the ending."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_s))
        await asyncio.shield(self._stopping)

    async def start(self) -> None:
        """Starts the supervisor and waits until it says that the command runs."""
        reader = await self._open()
        message = await self._first_message(reader)
        if "pid" not in message:
            raise InfrastructureError(
                f"{self._spec.name} can't be started: {message.get('failed', 'its supervisor ended')}.",
                code="launch_failed",
                advice=f"Check that `{self._spec.command[0]}` can be run in {self._spec.directory}.",
            )
        self._identity = f"{message['pid']}@{message['started']}"
        self._watch = asyncio.create_task(self._follow(reader))

    @property
    def _log(self) -> Path:
        return self._scratch / "output.log"

    async def _open(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._supervisor = self._spawn(theirs)
            except OSError as error:
                ours.close()
                raise InfrastructureError(
                    f"{self._spec.name} can't be started: {error}.",
                    code="launch_failed",
                    advice="Run `kinitro doctor`.",
                ) from error
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        return reader

    def _spawn(self, control: socket.socket) -> "subprocess.Popen[bytes]":
        home = self._scratch / "home"
        home.mkdir()
        if sys.platform != "linux":
            self._reservation.close()
        values = {"host": _HOST, "port": str(self._port)}
        options = {
            "--directory": str(self._spec.directory),
            "--log": str(self._log),
            "--scratch": str(self._scratch),
            "--memory-bytes": str(self._spec.limits.memory_bytes or 0),
        }
        command = [_fill(part, values) for part in self._spec.command]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__, *chain.from_iterable(options.items()), "--", *command],
            stdin=control.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_clean_environment(home, self._spec.limits) | dict(self._spec.environment) | {_RUN_MARKER: self._mark},
            start_new_session=True,
        )

    @property
    def _mark(self) -> str:
        return self._scratch.name

    async def _first_message(self, reader: asyncio.StreamReader) -> Mapping[str, object]:
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                return _message(await reader.readline())
        except TimeoutError:
            return {"failed": f"no word from its supervisor within {_START_TIMEOUT_S:.0f} s"}

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        """Learns of the command's end; a supervisor that ends without telling was killed."""
        reason: object = "its supervisor was killed"
        while line := await reader.readline():
            message = _message(line)
            reason = message.get("ended", reason)
            code = message.get("exit")
            if isinstance(code, int):
                self._exit_code = code
        self._lost = str(reason)
        await asyncio.to_thread(_kill_marked, self._mark)

    async def _stop(self, grace_s: float) -> None:
        try:
            await self._end_supervisor(grace_s)
        finally:
            if self._exit_code is None:
                self._exit_code = -signal.SIGKILL
            self._reservation.close()
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
            self._on_stopped(self)

    async def _end_supervisor(self, grace_s: float) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps({"stop": grace_s}).encode() + b"\n")
        if self._watch is not None:
            await asyncio.wait({self._watch}, timeout=grace_s + _KILL_TIMEOUT_S)
        if self._writer is not None:
            self._writer.close()
        if self._supervisor is not None:
            await asyncio.to_thread(_wait_or_kill, self._supervisor)


def _reserve_port() -> socket.socket:
    """Binds a free port without listening, and holds it.

    On Linux the server can still bind it, since both set SO_REUSEADDR and nobody listens yet, while the kernel gives
    it to no one else who asks for any free port. Elsewhere it is let go just before the start.
    """
    reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind((_HOST, 0))
    return reservation


def _fill(part: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        part = part.replace("{" + name + "}", value)
    return part


def _clean_environment(home: Path, limits: Limits) -> dict[str, str]:
    """What every program needs, and nothing of ours."""
    threads = str(max(1, math.ceil(limits.cpus))) if limits.cpus else None
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        # A policy's folder must stay as it was fetched.
        "PYTHONDONTWRITEBYTECODE": "1",
    } | (dict.fromkeys(_THREAD_HINTS, threads) if threads else {})


def _message(line: bytes) -> Mapping[str, object]:
    return json.loads(line) if line.endswith(b"\n") else {}


def _read_logs(path: Path) -> str:
    parts = []
    for part in (supervisor.previous_log(path), path):
        with contextlib.suppress(FileNotFoundError):
            parts.append(part.read_bytes())
    return b"".join(parts).decode(errors="replace")


def _wait_or_kill(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_KILL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _kill_marked(mark: str) -> None:
    """Kills what a run left behind when its supervisor was killed and could not do it."""
    wanted = f"{_RUN_MARKER}={mark}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)

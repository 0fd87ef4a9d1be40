"""A Docker host behind SSH: its engine's socket and its containers' ports, brought here by the system's own ssh.

OpenSSH and not a library of ours, so that keys, agents, `~/.ssh/config` and known hosts count as everywhere else; an
unknown host key is refused. The connection lasts as long as anyone holds the writing end of its stdin: we, and the
process that cleans up after us.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from kinitro.backends.base import Memory
from kinitro.backends.meminfo import parse_meminfo
from kinitro.errors import ConfigurationError, InfrastructureError
from kinitro.logs import get_logger

_log = get_logger("docker")
REMOTE_SOCKET = "/var/run/docker.sock"
_OPEN_S = 20.0
_COMMAND_S = 15.0
_REOPEN_S = 2.0
_LOOK_S = 0.05
_PORT_TRIES = 5
_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ExitOnForwardFailure=yes",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "StreamLocalBindUnlink=yes",
    "ControlPersist=no",
)


class Tunnel:
    """The way to one host, `ssh://user@host` or `ssh://user@host:port`. It is opened again when it breaks."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._folder = Path(tempfile.mkdtemp(prefix="kinitro-ssh-"))  # short: a socket's path is at most 107 long
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._forwards: dict[int, str] = {}
        self._reading, self.lifeline = os.pipe()
        """Whoever inherits `lifeline`, the writing end, keeps the connection up."""

    @property
    def engine_url(self) -> str:
        """The engine's socket, on this machine."""
        return f"unix://{self._folder / 'docker.sock'}"

    async def open(self) -> None:
        """Connects. `ConfigurationError` with ssh's own words when it can't."""
        try:
            await self._connect()
        except InfrastructureError as error:
            raise ConfigurationError(
                f"The Docker host {self._host} can't be reached: {error.message}",
                advice=f"Log in by hand once: ssh {' '.join(self._target())} docker version. Its key must be known, "
                "yours accepted without a password, and its user in the docker group.",
            ) from error
        self._keeper = asyncio.create_task(self._keep())

    async def forward(self, address: str, port: int) -> str:
        """The URL on this machine under which the host's `address:port` answers."""
        for _ in range(_PORT_TRIES):
            here = _free_port()
            try:
                await self._ask("-O", "forward", "-L", f"127.0.0.1:{here}:{address}:{port}")
            except InfrastructureError:
                continue  # someone else took the port meanwhile
            self._forwards[here] = f"{address}:{port}"
            return f"http://127.0.0.1:{here}"
        raise InfrastructureError(f"No way to {address} on {self._host} can be made.", code="docker_unreachable")

    async def unforward(self, url: str) -> None:
        """Closes what `forward` opened."""
        here = int(url.rpartition(":")[2])
        if (there := self._forwards.pop(here, None)) is not None:
            with contextlib.suppress(InfrastructureError):  # it went with the connection
                await self._ask("-O", "cancel", "-L", f"127.0.0.1:{here}:{there}")

    async def memory(self) -> Memory:
        """The host's memory. `InfrastructureError` when it can't be read."""
        return parse_meminfo(await self._ask(command="cat /proc/meminfo"))

    async def close(self) -> None:
        """Ends the connection, unless someone else still holds the lifeline. Safe to call twice."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
            os.close(self.lifeline)
            os.close(self._reading)
        if self._process is not None:
            await _end(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _connect(self) -> None:
        complaints = (self._folder / "complaints").open("w+b")
        with complaints:
            socket_file = self._folder / "docker.sock"
            socket_file.unlink(missing_ok=True)
            self._process = await self._spawn(complaints)
            end = asyncio.get_running_loop().time() + _OPEN_S
            while not socket_file.exists():
                if self._process.returncode is not None or asyncio.get_running_loop().time() >= end:
                    await _end(self._process)
                    raise InfrastructureError(_last_words(complaints), code="docker_unreachable")
                await asyncio.sleep(_LOOK_S)

    async def _spawn(self, complaints: IO[bytes]) -> asyncio.subprocess.Process:
        options = [part for option in _OPTIONS for part in ("-o", option)]
        way = f"{self._folder / 'docker.sock'}:{REMOTE_SOCKET}"
        return await asyncio.create_subprocess_exec(
            *("ssh", "-T", "-M", "-S", self._control, *options, "-L", way, *self._target(), "cat"),
            stdin=self._reading,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            start_new_session=True,  # a Ctrl-C is for us
        )

    async def _keep(self) -> None:
        """Connects again whenever the connection breaks, with everything that was forwarded."""
        while True:
            assert self._process is not None
            await self._process.wait()
            if await self._reconnected():
                _log.info("docker_host_back", host=self._host)
            else:
                await asyncio.sleep(_REOPEN_S)

    async def _reconnected(self) -> bool:
        _log.warning("docker_host_lost", host=self._host)
        try:
            await self._connect()
            for here, there in list(self._forwards.items()):
                await self._ask("-O", "forward", "-L", f"127.0.0.1:{here}:{there}")
        except InfrastructureError as error:
            _log.warning("docker_host_unreachable", host=self._host, error=error.message)
            return False
        return True

    async def _ask(self, *arguments: str, command: str | None = None) -> str:
        """A command to the connection, or over it to the host. `InfrastructureError` when it fails."""
        asking = await asyncio.create_subprocess_exec(
            *("ssh", "-T", "-S", self._control, "-o", "BatchMode=yes", *arguments, *self._target()),
            *([command] if command else []),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_COMMAND_S):
                said, complaints = await asking.communicate()
        except TimeoutError:
            said, complaints = b"", b"no answer in time"
        finally:
            if asking.returncode is None:
                asking.kill()
                await asking.wait()
        if asking.returncode != 0:
            reason = complaints.decode(errors="replace").strip() or "no answer"
            raise InfrastructureError(f"ssh {self._host}: {reason}.", code="docker_unreachable")
        return said.decode(errors="replace")

    @property
    def _control(self) -> str:
        return str(self._folder / "control")

    def _target(self) -> list[str]:
        name, colon, port = self._host.removeprefix("ssh://").rpartition(":")
        return ["-p", port, "--", name] if colon else ["--", port]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_words(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    return " ".join(lines[-3:]) or f"ssh has not connected within {_OPEN_S:g} s."


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(5.0):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

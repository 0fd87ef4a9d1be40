"""The executor's side of the affinetes process: asks it to load environments, and outlives none of its failures."""

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from typing import IO

from kinitro.backends.docker.settings import DockerSettings
from kinitro.backends.docker.tunnel import Tunnel
from kinitro.errors import EnvironmentFault

_END_S = 60.0


class AffinetesHost:
    """One affinetes process. It holds the run's lock too, and cleans the run up when we are gone."""

    def __init__(self, settings: DockerSettings, run: str, lock: IO[str], tunnel: Tunnel | None = None) -> None:
        self._settings = settings
        self._run = run
        self._lock = lock
        self._tunnel = tunnel
        self._process: asyncio.subprocess.Process | None = None
        self._reading: list[asyncio.Task[None]] = []
        self._waiting: dict[int, asyncio.Future[str | None]] = {}
        self._last: deque[str] = deque(maxlen=10)
        self._ids = itertools.count()

    async def start(self) -> None:
        """Starts the process; it answers when it is ready."""
        options = ("--run", self._run, "--state", str(self._settings.state), "--image", self._settings.image)
        held = (self._lock.fileno(), *([self._tunnel.lifeline] if self._tunnel else []))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "kinitro.backends.docker.affinetes_worker",
            *options,
            *("--host", self._settings.host),
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=held,
            # A Ctrl-C is for us; it must live to clean up.
            start_new_session=True,
        )
        self._reading = [asyncio.create_task(self._read_answers()), asyncio.create_task(self._read_complaints())]

    async def load(self, arguments: Mapping[str, object], way: str | None) -> None:
        """`affinetes.load_env` with these arguments, its questions going by `way` if there is one.

        Raises `EnvironmentFault` with its complaint.
        """
        if self._process is None or self._process.stdin is None or self._process.returncode is not None:
            raise self._gone()
        number = next(self._ids)
        request = {"id": number, "load": dict(arguments), "way": way}
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._process.stdin.write((json.dumps(request) + "\n").encode())
            await self._process.stdin.drain()
            error = await self._waiting[number]
        except ConnectionError as broken:
            raise self._gone() from broken
        finally:
            del self._waiting[number]
        if error is not None:
            raise EnvironmentFault(f"affinetes: {error}", code="environment_start")

    async def close(self) -> None:
        """Ends the process, which removes everything of the run first."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await asyncio.gather(*self._reading, return_exceptions=True)
        self._process = None

    def _environment(self) -> dict[str, str]:
        """Ours, less any proxy, which would be asked for our containers; with the engine that is meant."""
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        return kept | ({"DOCKER_HOST": self._tunnel.engine_url} if self._tunnel else {})

    async def _read_answers(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            waiting = self._waiting.get(answer["id"])
            if waiting is not None and not waiting.done():
                waiting.set_result(answer.get("error"))
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(self._gone())

    async def _read_complaints(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError):  # a line beyond asyncio's limit
            while line := await self._process.stderr.readline():
                self._last.append(line.decode(errors="replace").rstrip())

    def _gone(self) -> EnvironmentFault:
        last = "\n".join(self._last)
        return EnvironmentFault(f"The affinetes process has ended. Its last lines:\n{last}", code="affinetes_ended")

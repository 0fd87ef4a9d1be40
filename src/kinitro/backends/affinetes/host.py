"""The executor's side of the affinetes process: asks it for one thing after the other, and outlives its failures."""

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from kinitro.errors import EnvironmentFault

_END_S = 60.0
_MAX_LINE_BYTES = 2 * 1024 * 1024


class AffinetesHost:
    """One affinetes process. It holds the run's lock too, and cleans the run up when we are gone."""

    def __init__(
        self, module: str, options: Sequence[str], held: Sequence[int], environment: Mapping[str, str]
    ) -> None:
        self._command = (sys.executable, "-P", "-m", module, *options)
        self._held = held
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._reading: list[asyncio.Task[None]] = []
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}  # Any: documents of the process
        self._last: deque[str] = deque(maxlen=10)
        self._ids = itertools.count()

    async def start(self) -> None:
        """Starts the process; it answers when it is ready. It holds the descriptors `held` as long as it lives."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=self._held,
            limit=_MAX_LINE_BYTES,
            # A Ctrl-C is for us; it must live to clean up.
            start_new_session=True,
        )
        self._reading = [asyncio.create_task(self._read_answers()), asyncio.create_task(self._read_complaints())]

    async def ask(self, request: Mapping[str, object]) -> object:
        """What the process answers. Raises `EnvironmentFault` with its complaint; a cancelled request is told to it."""
        number = next(self._ids)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send({"id": number, **request})
            answer = await self._waiting[number]
        except asyncio.CancelledError:
            with contextlib.suppress(EnvironmentFault):
                await self._send({"cancel": number})
            raise
        finally:
            del self._waiting[number]
        if "error" in answer:
            raise EnvironmentFault(f"affinetes: {answer['error']}", code="environment_start")
        return answer.get("result")

    async def _send(self, document: Mapping[str, object]) -> None:
        if self._process is None or self._process.stdin is None or self._process.returncode is not None:
            raise self._gone()
        try:
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            await self._process.stdin.drain()
        except ConnectionError as broken:
            raise self._gone() from broken

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

    async def _read_answers(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            waiting = self._waiting.get(answer["id"])
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
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

"""How long deployments are kept and waited for when nothing is set: seen on an event loop whose seconds pass faster."""

import asyncio
import contextlib
import json
import os
import selectors
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kinitro.backends.base import LaunchSpec
from kinitro.deployments import DeploymentManager, SnapshotStore
from kinitro.environments.workers import EnvironmentLaunch
from kinitro.errors import PolicyError
from kinitro.executor.service import _deployment_settings
from kinitro.executor.stage import Stage
from kinitro.settings import ExecutorSettings

PACE = 100
SLACK_S = 1000  # ten true seconds, for a machine that is busy
HEALTH = {"status": "healthy", "model_loaded": True, "uptime_seconds": 0.0}


class HurriedSelector(selectors.DefaultSelector):
    def select(self, timeout=None):
        return super().select(timeout / PACE if timeout else timeout)


class HurriedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__(HurriedSelector())

    def time(self) -> float:
        return super().time() * PACE


class Server:
    """What a backend started: a policy's health route in this process. `loaded` is what it says of its model."""

    identity = "one"

    def __init__(self, *, loaded: bool) -> None:
        self._body = json.dumps(HEALTH | {"model_loaded": loaded}).encode()
        self.ended_at: float | None = None
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(self._body)}\r\n\r\n"
                writer.write(head.encode() + self._body)
        writer.close()

    async def exit_code(self) -> int | None:
        return None

    async def logs(self, lines: int = 20) -> str:
        return ""

    async def stop(self, grace_s: float = 2.0) -> None:
        self.ended_at = asyncio.get_running_loop().time()
        self._server.close()


class Backend:
    def __init__(self, server: Server) -> None:
        self._server = server

    async def launch(self, spec: LaunchSpec) -> Server:
        await self._server.start()
        return self._server


@pytest.fixture(autouse=True)
def nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no .env
    for name in [name for name in os.environ if name.startswith("KINITRO_EXECUTOR_")]:
        monkeypatch.delenv(name)


@asynccontextmanager
async def deploying(server: Server, store: SnapshotStore) -> AsyncIterator[DeploymentManager]:
    backend = Backend(server)
    settings = _deployment_settings(ExecutorSettings.load(), Stage(backend, "python", None, EnvironmentLaunch()))
    async with DeploymentManager(backend, store, settings, asyncio.get_running_loop().time) as manager:
        yield manager


def test_an_unused_deployment_is_kept_for_600_seconds(store, add_policy) -> None:
    server, ref = Server(loaded=True), add_policy()

    async def use() -> float:
        loop = asyncio.get_running_loop()
        async with deploying(server, store) as manager:
            async with manager.lease(ref, 1):
                pass
            used = loop.time()
            while server.ended_at is None:  # noqa: ASYNC110 - it looks at the reaper's work
                await asyncio.sleep(1.0)
            return server.ended_at - used

    with asyncio.Runner(loop_factory=HurriedLoop) as runner:
        assert 600 <= runner.run(use()) < 600 + SLACK_S


def test_a_policy_has_300_seconds_to_get_ready(store, add_policy) -> None:
    server, ref = Server(loaded=False), add_policy()

    async def wait() -> float:
        loop = asyncio.get_running_loop()
        async with deploying(server, store) as manager:
            began = loop.time()
            with pytest.raises(PolicyError, match=r"^Miner deployment not ready after 300 s"):
                async with manager.lease(ref, 1):
                    pass
            return loop.time() - began

    with asyncio.Runner(loop_factory=HurriedLoop) as runner:
        assert 300 <= runner.run(wait()) < 300 + SLACK_S

"""Everything here starts real containers; without an engine or the images it is skipped, and says so."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from kinitro.backends.docker import DockerBackend, DockerSettings
from kinitro.deployments.snapshots import SnapshotStore

from ..executors import executing  # noqa: TID252 - one for all tests
from ..integration.executor.fake_api import FakeApi  # noqa: TID252 - one stand-in for all

RunExecutor = Callable[..., AbstractAsyncContextManager[asyncio.Task[None]]]

RUNNER = "kinitro/miner-runner:v1"
METAWORLD = "kinitro/metaworld:v1"


def docker(*arguments: str) -> str:
    """The docker command's output."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def in_host_network(script: str) -> str:
    """The output of a script that may look at this host's firewall and change it."""
    return docker(
        *("run", "--rm", "--network", "host", "--cap-add", "NET_ADMIN", "-u", "0", RUNNER, "sh", "-c", script)
    )


def missing() -> str | None:
    try:
        for image in (RUNNER, METAWORLD):
            docker("image", "inspect", image)
    except (OSError, subprocess.SubprocessError) as error:
        return (
            f"no Docker engine with our images ({error}); start one and run `kinitro env build metaworld` and `miner`"
        )
    return None


def left_over(run: str = "") -> list[str]:
    """Everything of ours that the engine still has."""
    found = docker("ps", "-aq", "--filter", f"label=kinitro.run{run}").split()
    found += docker("network", "ls", "-q", "--filter", f"label=kinitro.run{run}").split()
    return found + docker("volume", "ls", "-q", "--filter", f"label=kinitro.run{run}").split()


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    if (reason := missing()) is not None:
        pytest.skip(reason)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def settings(state: Path) -> DockerSettings:
    return DockerSettings(state=state, image=RUNNER, callers=4)


@pytest.fixture
async def backend(settings: DockerSettings) -> AsyncIterator[DockerBackend]:
    async with DockerBackend(settings) as backend:
        yield backend


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    end = time.monotonic() + 10
    while left_over() and time.monotonic() < end:  # a helper of the sweep may be at work
        time.sleep(0.2)
    assert left_over() == []


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    api = FakeApi()
    api.lease_s = 30.0
    await api.come()
    yield api
    await api.go()


@pytest.fixture
def store(state: Path, monkeypatch: pytest.MonkeyPatch) -> SnapshotStore:
    """The snapshot cache of a KINITRO_HOME that is `state`."""
    monkeypatch.setenv("KINITRO_HOME", str(state))
    return SnapshotStore(state / "snapshots")


@pytest.fixture
def run_executor(api: FakeApi, store: SnapshotStore) -> RunExecutor:
    """Runs an executor in this process for the length of a block; leaving it asks it to end, in order."""

    @asynccontextmanager
    async def run(**changes: object) -> AsyncIterator[asyncio.Task[None]]:
        chosen = {
            "api_url": api.url, "executor_id": "test", "eval_mode": "docker", "max_concurrent": 2, "batch_size": 8,
            "poll_interval_seconds": 0.2, "miner_deployment_warmup_timeout": 20.0, "action_timeout": 5.0,
            "eval_timeout": 60.0, "shutdown_grace_seconds": 5.0, "use_images": False, "max_timesteps": 200,
            "miner_deployment_memory": "1g",
        } | changes  # fmt: skip
        async with executing(chosen) as task:
            yield task

    return run


async def until(condition: Callable[[], object], timeout_s: float = 90.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - it looks at other processes
            await asyncio.sleep(0.05)


@pytest.fixture
def executor_process(api, state: Path) -> Callable:
    @asynccontextmanager
    async def run(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        variables = {"KINITRO_HOME": str(state), "KINITRO_EXECUTOR_MINER_DEPLOYMENT_MEMORY": "1g"}
        variables |= {"KINITRO_EXECUTOR_SHUTDOWN_GRACE_SECONDS": "2"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kinitro", "executor", "--api-url", api.url, "--poll-interval", "0.2", *arguments,
            env=os.environ | variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return run

"""Whatever ends an executor: nothing that it made is left to pay for."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .conftest import LINE_IMAGE, until

WAITS = "def act(obs):\n    time.sleep(0.2)\n    return {'continuous': {}}\n"


@pytest.fixture
async def executor(api, basilica, upload, tmp_path) -> AsyncIterator["Executor"]:
    """One that has a policy deployed and an episode under way."""
    started = Executor(api, tmp_path)
    started.start()
    api.add(upload(WAITS))
    try:
        await until(lambda: len(basilica.alive) == 2)
        yield started
    finally:
        started.end()


class Executor:
    def __init__(self, api, home: Path) -> None:
        self._home = home
        self._environment = os.environ | {
            "KINITRO_HOME": str(home / "home"),
            "KINITRO_EXECUTOR_API_URL": api.url,
            "KINITRO_EXECUTOR_EVAL_IMAGES": json.dumps({"line": LINE_IMAGE}),
            "KINITRO_EXECUTOR_POLL_INTERVAL_SECONDS": "0.2",
            "KINITRO_EXECUTOR_SHUTDOWN_GRACE_SECONDS": "1",
            "KINITRO_EXECUTOR_MINER_DEPLOYMENT_WARMUP_TIMEOUT": "30",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._home / "executor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("run_executor.py"))],
                cwd=self._home,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        return (self._home / "executor.log").read_text()

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def until_ended(self) -> None:
        await until(lambda: self.process is not None and self.process.poll() is not None, 60)

    def helper(self) -> int:
        """Its affinetes process."""
        assert self.process is not None
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and b"basilica.affinetes_worker" in (entry / "cmdline").read_bytes():
                    return int(entry.name)
            except OSError:
                continue
        raise AssertionError(f"no affinetes process\n{self.log()}")

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_request_to_end_deletes_everything(number, executor, basilica) -> None:
    executor.send(number)
    await executor.until_ended()
    assert basilica.alive == {}, executor.log()
    assert "Traceback" not in executor.log()


async def test_when_the_executor_is_killed_its_affinetes_process_deletes_everything(executor, basilica) -> None:
    executor.send(signal.SIGKILL)
    await until(lambda: basilica.alive == {}, 60)


async def test_when_both_are_killed_the_next_start_deletes_everything(executor, basilica, api) -> None:
    before = set(basilica.alive)
    api.pending.clear()
    os.kill(executor.helper(), signal.SIGKILL)
    executor.send(signal.SIGKILL)
    await executor.until_ended()
    await asyncio.sleep(0.5)
    assert before <= set(basilica.alive), "they cost money meanwhile"
    executor.start()
    await until(lambda: basilica.alive == {}, 60)
    await until(lambda: executor.log().count("basilica_ready") == 2)
    assert "deployments_swept" in executor.log()
    executor.send(signal.SIGTERM)
    await executor.until_ended()
    assert basilica.alive == {}
    assert list((executor._home / "home" / "basilica-runs").rglob("*.lock")) == [], executor.log()


async def test_what_can_not_be_deleted_at_the_end_is_remembered_for_the_next_start(executor, basilica, api) -> None:
    api.pending.clear()
    basilica.undeletable.add("kinitro-")
    executor.send(signal.SIGTERM)
    await executor.until_ended()
    (left,) = basilica.alive
    assert "deployment_not_deleted" in executor.log()
    basilica.undeletable.clear()
    executor.start()
    await until(lambda: left not in basilica.alive, 60)

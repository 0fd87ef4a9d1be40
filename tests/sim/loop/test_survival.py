"""The services as real processes, killed without warning in the middle of a cycle: nothing is lost or counted twice."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from kinitro.client import KinitroClient
from kinitro.demo import NETUID, enter_miners
from kinitro.errors import ApiError, ApiUnreachable
from kinitro.schemas import CycleOut, TaskStats
from kinitro.scoring import score_cycle
from kinitro.storage import admin, open_database
from kinitro.storage import tables as t
from kinitro.types import CycleStatus, TaskStatus

ENVIRONMENT = "metaworld/drawer-close-v3"
EPISODES = 10
MINERS = 4  # the fifth bundled miner is a copy
DEADLINE_S = 150
LEASE_S = 3


@dataclass
class Machine:
    """One machine with the three services of a production one, in a home of its own."""

    home: Path
    port: int
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, name: str) -> None:
        commands = {
            "api": ["api", "--port", str(self.port)],
            "scheduler": [
                *("scheduler", "--network", "dev", "--netuid", str(NETUID), "--eval-interval", "3600"),
                *("--episodes-per-env", str(EPISODES), "--environments", ENVIRONMENT),
            ],
            "executor": [
                *("executor", "--api-url", self.url, "--eval-mode", "process", "--poll-interval", "0.3"),
                *("--executor-id", f"executor-{time.monotonic_ns()}", "--batch-size", "4"),
            ],
        }
        environment = {
            **os.environ,
            "KINITRO_HOME": str(self.home),
            "KINITRO_API_TASK_LEASE_SECONDS": str(LEASE_S),
            "KINITRO_SCHEDULER_TASK_MAX_ATTEMPTS": "6",
            "KINITRO_EXECUTOR_MAX_TIMESTEPS": "80",
        }
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "kinitro", *commands[name]],
                cwd=self.home,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        self.running[name].send_signal(signal.SIGKILL)
        self.running.pop(name).wait()

    def stop(self) -> None:
        for name in ("executor", "scheduler", "api"):
            if name in self.running:
                self.running[name].terminate()
        for process in self.running.values():
            process.wait(timeout=40)

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.home.glob("*.log")))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("KINITRO_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made = Machine(tmp_path, port)
    yield made
    made.stop()


@pytest.fixture
async def client(machine: Machine) -> AsyncIterator[KinitroClient]:
    async with KinitroClient(machine.url) as opened:
        yield opened


async def stats(client: KinitroClient) -> TaskStats | None:
    try:
        return await client.stats()
    except (ApiError, ApiUnreachable):
        return None


async def until_closed(client: KinitroClient, at_least: int) -> int:
    """Waits until so many tasks have a verdict; returns how many have."""
    while True:
        now = await stats(client)
        if now is not None and now.completed_tasks >= at_least:
            return now.completed_tasks
        await asyncio.sleep(0.1)


async def until_completed(client: KinitroClient) -> CycleOut:
    while True:
        try:
            last = (await client.status()).last_completed_cycle
        except (ApiError, ApiUnreachable):
            last = None
        if last is not None:
            return last
        await asyncio.sleep(0.2)


async def verdict_counts() -> tuple[int, int, set[str]]:
    """Tasks, verdicts, and the statuses of the tasks."""
    async with open_database(None) as database, database.begin() as connection:
        tasks = await connection.scalar(sa.select(sa.func.count()).select_from(t.tasks))
        verdicts = await connection.scalar(sa.select(sa.func.count()).select_from(t.verdicts))
        return tasks or 0, verdicts or 0, set(await connection.scalars(sa.select(t.tasks.c.status).distinct()))


@pytest.mark.timeout(DEADLINE_S + 60)
@pytest.mark.parametrize("victim", ["executor", "api", "scheduler"])
async def test_a_killed_service_costs_no_verdict_and_doubles_none(victim: str, machine: Machine, client: KinitroClient):
    await enter_miners(machine.home)
    await admin.init(None)
    for name in ("api", "scheduler", "executor"):
        machine.start(name)
    try:
        async with asyncio.timeout(DEADLINE_S):
            closed = 0
            for _ in range(3):
                closed = await until_closed(client, closed + 3)
                machine.kill(victim)
                await asyncio.sleep(0.5)
                machine.start(victim)
            cycle = await until_completed(client)
    except TimeoutError:
        pytest.fail(f"the cycle was not completed in time\n{machine.logs()}")
    assert cycle.id == 1
    assert cycle.status is CycleStatus.COMPLETED
    tasks, verdicts, statuses = await verdict_counts()
    assert tasks == verdicts == MINERS * EPISODES
    assert statuses == {TaskStatus.COMPLETED}
    weights = await client.weights()
    assert dict(score_cycle(await client.export(1)).weights) == weights.weights

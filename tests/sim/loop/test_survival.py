"""The services as real processes, killed without warning in the middle of a cycle: nothing is lost or counted twice."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
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

from ...machine import Machine  # noqa: TID252 - one machine for all tests

ENVIRONMENT = "metaworld/drawer-close-v3"
EPISODES = 10
MINERS = 4  # the fifth bundled miner is a copy
DEADLINE_S = 150
LEASE_S = 3


def start(machine: Machine, name: str) -> None:
    """One of the three services of a production machine."""
    url = machine.variables["KINITRO_EXECUTOR_API_URL"]
    arguments = {
        "api": ("--port", url.rpartition(":")[2]),
        "scheduler": (
            *("--network", "dev", "--netuid", str(NETUID), "--eval-interval", "3600"),
            *("--episodes-per-env", str(EPISODES), "--environments", ENVIRONMENT),
        ),
        "executor": (
            *("--eval-mode", "process", "--poll-interval", "0.3"),
            *("--executor-id", f"executor-{time.monotonic_ns()}", "--batch-size", "4"),
        ),
    }
    machine.start(name, name, *arguments[name])


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("KINITRO_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    variables = {
        "KINITRO_EXECUTOR_API_URL": url,
        "KINITRO_API_TASK_LEASE_SECONDS": str(LEASE_S),
        "KINITRO_SCHEDULER_TASK_MAX_ATTEMPTS": "6",
        "KINITRO_EXECUTOR_MAX_TIMESTEPS": "80",
    }
    made = Machine(tmp_path, variables)
    yield made
    made.stop()


@pytest.fixture
async def client(machine: Machine) -> AsyncIterator[KinitroClient]:
    async with KinitroClient(machine.variables["KINITRO_EXECUTOR_API_URL"]) as opened:
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
        start(machine, name)
    try:
        async with asyncio.timeout(DEADLINE_S):
            closed = 0
            for _ in range(3):
                closed = await until_closed(client, closed + 3)
                machine.kill(victim)
                await asyncio.sleep(0.5)
                start(machine, victim)
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

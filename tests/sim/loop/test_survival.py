"""The services as real processes, killed without warning in the middle of a cycle: nothing is lost or counted twice."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from kinitro.client import KinitroClient
from kinitro.demo import enter_miners
from kinitro.scoring import score_cycle
from kinitro.storage import admin, open_database
from kinitro.storage import tables as t
from kinitro.types import CycleStatus, TaskStatus

from ..machine import EvaluationMachine, until_closed, until_completed  # noqa: TID252 - one machine for all tests

ENVIRONMENT = "metaworld/drawer-close-v3"
EPISODES = 10
MINERS = 4  # the fifth bundled miner is a copy
DEADLINE_S = 150


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EvaluationMachine]:
    monkeypatch.setenv("KINITRO_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made = EvaluationMachine(tmp_path, port=port, environment=ENVIRONMENT, episodes=EPISODES)
    yield made
    made.stop()


@pytest.fixture
async def client(machine: EvaluationMachine) -> AsyncIterator[KinitroClient]:
    async with KinitroClient(machine.url) as opened:
        yield opened


async def verdict_counts() -> tuple[int, int, set[str]]:
    """Tasks, verdicts, and the statuses of the tasks. Runs of audits are none of them."""
    async with open_database(None) as database, database.begin() as connection:
        tasks = await connection.scalar(sa.select(sa.func.count()).where(t.tasks.c.audit_id.is_(None)))
        statuses = sa.select(t.tasks.c.status).where(t.tasks.c.audit_id.is_(None)).distinct()
        verdicts = await connection.scalar(sa.select(sa.func.count()).select_from(t.verdicts))
        return tasks or 0, verdicts or 0, set(await connection.scalars(statuses))


@pytest.mark.timeout(DEADLINE_S + 60)
@pytest.mark.parametrize("victim", ["executor", "api", "scheduler"])
async def test_a_killed_service_costs_no_verdict_and_doubles_none(
    victim: str, machine: EvaluationMachine, client: KinitroClient
):
    await enter_miners(machine.home)
    await admin.init(None)
    for name in ("api", "scheduler", "executor"):
        machine.start_service(name)
    try:
        async with asyncio.timeout(DEADLINE_S):
            closed = 0
            for _ in range(3):
                closed = await until_closed(client, closed + 3)
                machine.kill(victim)
                await asyncio.sleep(0.5)
                machine.start_service(victim)
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

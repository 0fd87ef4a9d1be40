"""A running cycle, its tasks and results, as short as possible."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from kinitro.scheduler.auditor import Auditor
from kinitro.schemas import LeaseRef, ResultIn, TaskOut
from kinitro.storage.database import Database
from kinitro.storage.tables import cycles
from kinitro.storage.task_pool import PlannedTask, TaskPool, create_tasks

ENVIRONMENTS = ("metaworld/reach-v3", "metaworld/push-v3")


def planned(
    miners: int, environments: Sequence[str], episodes: int, drawn: Collection[int] = ()
) -> Iterator[PlannedTask]:
    """`drawn` are the positions of the tasks whose verdicts are checked."""
    position = 0
    for uid in range(miners):
        for env_id in environments:
            for index in range(episodes):
                yield PlannedTask(
                    uid, f"hotkey{uid}", f"User{uid}/Repo", "a" * 40, env_id, index, 1, 2, position, position in drawn
                )
                position += 1


@dataclass(frozen=True)
class PoolKit:
    """What a test of the pool does besides calling it."""

    database: Database

    @property
    def pool(self) -> TaskPool:
        """A new pool each time: nothing may hang on the object."""
        return TaskPool(self.database, lease_s=60, max_lease_s=660)

    async def start_cycle(
        self,
        *,
        miners: int = 2,
        environments: Sequence[str] = ENVIRONMENTS,
        episodes: int = 2,
        budget_s: float = 3600.0,
        max_attempts: int = 3,
        drawn: Collection[int] = (),
    ) -> int:
        cycle = sa.insert(cycles).values(
            status="running",
            block_number=1,
            netuid=1,
            genesis="0x00",
            salt=bytes(32),
            salt_sha256="00",
            target_block=4,
            episodes_per_env=episodes,
            environments=[],
            rule={},
            miner_time_budget_s=budget_s,
            timeout_s=7200.0,
            task_max_attempts=max_attempts,
            n_miners=miners,
        )
        async with self.database.begin() as connection:
            cycle_id = await connection.scalar(cycle.returning(cycles.c.id))
            assert cycle_id is not None
            await create_tasks(connection, cycle_id, planned(miners, environments, episodes, drawn))
        return cycle_id

    def lease(self, task: TaskOut, *, started: bool | None = None) -> LeaseRef:
        return LeaseRef(task_uuid=task.task_uuid, lease_token=task.lease_token, started=started)

    def result(self, task: TaskOut, **fields: Any) -> ResultIn:
        content: dict[str, Any] = {"success": True, "score": 1.0, "total_reward": 1.5, "timesteps": 10}
        return ResultIn(task_uuid=task.task_uuid, lease_token=task.lease_token, **(content | fields))

    def fault(self, task: TaskOut, **fields: Any) -> ResultIn:
        return self.result(
            task, **{"success": False, "score": 0.0, "error": "disk full", "error_kind": "infrastructure"} | fields
        )

    async def start(self, executor_id: str, task: TaskOut) -> None:
        await self.pool.heartbeat(executor_id, [self.lease(task, started=True)])

    async def audit(self, cycle_id: int) -> bool:
        """One step of the scheduler's auditor, as in its loop."""
        async with self.database.begin() as connection:
            return await Auditor(connection).advance(cycle_id)

    async def pass_time(self, seconds: float) -> None:
        """Makes it that much later, by moving every moment of tasks and executors into the past."""
        moments = {
            "tasks": ("not_before", "leased_at", "lease_expires_at", "avoid_until"),
            "executors": ("last_seen_at", "lost_at"),
        }
        async with self.database.begin() as connection:
            for table, names in moments.items():
                shifts = ", ".join(f"{name} = {name} - make_interval(secs => :s)" for name in names)
                await connection.execute(sa.text(f"update {table} set {shifts}"), {"s": seconds})

    async def run(self, statement: str) -> None:
        async with self.database.begin() as connection:
            await connection.execute(sa.text(statement))

    async def rows(self, query: str) -> list[sa.Row[Any]]:
        async with self.database.connect() as connection:
            return list((await connection.execute(sa.text(query))).all())

    async def task(self, task: TaskOut) -> sa.Row[Any]:
        (row,) = await self.rows(f"select * from tasks where id = '{task.task_uuid}'")
        return row


@pytest.fixture
def kit(database: Database) -> PoolKit:
    return PoolKit(database)

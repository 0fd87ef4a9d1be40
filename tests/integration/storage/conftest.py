"""A running cycle, its tasks and results, as short as possible."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from kinitro.schemas import LeaseRef, ResultIn, TaskOut
from kinitro.storage.database import Database
from kinitro.storage.tables import cycles
from kinitro.storage.task_pool import PlannedTask, create_tasks

ENVIRONMENTS = ("metaworld/reach-v3", "metaworld/push-v3")


def planned(miners: int, environments: Sequence[str], episodes: int) -> Iterator[PlannedTask]:
    position = 0
    for index in range(episodes):
        for env_id in environments:
            for uid in range(miners):
                yield PlannedTask(uid, f"hotkey{uid}", f"User{uid}/Repo", "a" * 40, env_id, index, 1, 2, position)
                position += 1


async def start_cycle(
    database: Database,
    *,
    miners: int = 2,
    environments: Sequence[str] = ENVIRONMENTS,
    episodes: int = 2,
    budget_s: float = 3600.0,
    max_attempts: int = 3,
) -> int:
    async with database.begin() as connection:
        cycle_id = await connection.scalar(
            sa.insert(cycles)
            .values(
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
            .returning(cycles.c.id)
        )
        assert cycle_id is not None
        await create_tasks(connection, cycle_id, planned(miners, environments, episodes))
    return cycle_id


def lease_of(task: TaskOut, *, started: bool | None = None) -> LeaseRef:
    return LeaseRef(task_uuid=task.task_uuid, lease_token=task.lease_token, started=started)


def result_of(task: TaskOut, **fields: Any) -> ResultIn:
    content: dict[str, Any] = {"success": True, "score": 1.0, "total_reward": 1.5, "timesteps": 10}
    return ResultIn(task_uuid=task.task_uuid, lease_token=task.lease_token, **(content | fields))


async def pass_time(database: Database, seconds: float) -> None:
    """Makes it that much later, by moving every moment in the task table into the past."""
    moments = ("not_before", "leased_at", "lease_expires_at", "avoid_until")
    shifts = ", ".join(f"{name} = {name} - make_interval(secs => :s)" for name in moments)
    async with database.begin() as connection:
        await connection.execute(sa.text(f"update tasks set {shifts}"), {"s": seconds})


async def rows(database: Database, query: str) -> list[sa.Row[Any]]:
    async with database.connect() as connection:
        return list((await connection.execute(sa.text(query))).all())

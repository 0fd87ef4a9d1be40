"""The queue of episodes: lease, renew, give back, finish. Each is one transaction; ownership is the lease token.

Time is the database's clock alone. Rows are locked in one order everywhere: the executor's, the cycle's, then tasks by
id; what only looks for work skips locked rows.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.errors import ExecutorQuarantined
from kinitro.schemas import (
    FetchResponse,
    HeartbeatResponse,
    LeaseRef,
    ReleaseResponse,
    ResultIn,
    SubmitResponse,
    TaskOut,
    TaskStats,
)
from kinitro.storage import results as taking
from kinitro.storage.database import Database
from kinitro.storage.quarantine import standing
from kinitro.storage.task_life import (
    CycleProgress,
    PlannedTask,
    close_over_budget,
    create_tasks,
    expire_leases,
    fail_remaining,
    progress,
)
from kinitro.types import TaskStatus

__all__ = [
    "CycleProgress",
    "PlannedTask",
    "TaskPool",
    "close_over_budget",
    "create_tasks",
    "expire_leases",
    "fail_remaining",
    "progress",
]

_ACTIVE_S = 60.0
_EXACT_UP_TO = 2000  # counting more rows than this at each fetch would cost more than the fetch
_COUNT_LIFE_S = 1.0
_MOST_MINERS = 64  # in one batch; finding each costs a walk over the tasks of the one before


@dataclass(slots=True)
class _PendingCount:
    """The last count of a large backlog, and when it was taken."""

    cycle_id: int = -1
    pending: int = 0
    taken_at: float = 0.0


class TaskPool:
    """The task pool of one database. Holds nothing but a short-lived count; any number may work side by side.

    `lease_s` is a lease's length, `max_lease_s` the longest it may be renewed to. Every method raises
    DatabaseUnreachable when the database is away; nothing is half done then, and the call may be repeated.
    """

    def __init__(self, database: Database, *, lease_s: float = 60.0, max_lease_s: float = 660.0) -> None:
        self._database = database
        self._times = {"lease_s": lease_s, "max_lease_s": max_lease_s}
        self._active_s = max(_ACTIVE_S, 2 * lease_s)
        self._count = _PendingCount()

    async def fetch(self, executor_id: str, batch_size: int, env_ids: Sequence[str] | None) -> FetchResponse:
        """Leases up to `batch_size` tasks of the running cycle, of the environments named, or of all.

        Of each miner in the tasks' order; a batch is spread over the first miners that have any left.
        `total_pending` counts all pending episodes left; above 2000 it is up to a second old. Raises
        ExecutorQuarantined when this executor gets none.
        """
        async with self._database.begin() as connection:
            cycle_id = await self._see(connection, executor_id, env_ids)
            # Only now: with the executor's row locked, nobody is quarantined between this look and the lease.
            found = await standing(connection, executor_id, env_ids)
            if found.reason is not None:
                raise _quarantined(executor_id, found.reason)
            if cycle_id is None:
                return FetchResponse(tasks=[], total_pending=0)
            await expire_leases(connection, cycle_id)
            asked = {"cycle": cycle_id, "executor": executor_id, "kept_from": list(found.kept_from)}
            asked["envs"] = None if env_ids is None else list(env_ids)
            rows = await self._claim(connection, batch_size, asked)
            pending = await self._pending(connection, cycle_id, len(rows))
        tasks = [_task_out(row) for row in sorted(rows, key=lambda row: row.position)]
        return FetchResponse(tasks=tasks, total_pending=pending)

    async def pause(self, executor_id: str, reason: str) -> None:
        """Remembers that this executor is there, serves nothing now, and why. Its next fetch takes it back."""
        async with self._database.begin() as connection:
            asked = {"executor": executor_id, "text": f"Executor {executor_id} has paused itself: {reason}"}
            await connection.execute(_PAUSE, asked)

    async def heartbeat(self, executor_id: str, leases: Sequence[LeaseRef]) -> HeartbeatResponse:
        """Renews leases, up to their cap, and marks started ones. What can't be renewed is lost: stop working on it."""
        async with self._database.begin() as connection:
            await connection.execute(_TOUCH, {"executor": executor_id})
            asked = {"executor": executor_id, "leases": _lease_rows(leases), **self._times}
            held = {row.id for row in await connection.execute(_RENEW, asked)}
        extended, lost = _split(leases, held)
        return HeartbeatResponse(extended=extended, lost=lost)

    async def release(self, executor_id: str, leases: Sequence[LeaseRef]) -> ReleaseResponse:
        """Gives tasks back at once. One that was started counts an attempt, like a lost lease, but does not wait."""
        async with self._database.begin() as connection:
            asked = {"executor": executor_id, "leases": _lease_rows(leases)}
            rows = (await connection.execute(_RELEASE, asked)).all()
            for cycle_id in {row.cycle_id for row in rows}:
                uids = {row.uid for row in rows if row.cycle_id == cycle_id}
                await close_over_budget(connection, cycle_id, uids)
        released, lost = _split(leases, {row.id for row in rows})
        return ReleaseResponse(released=released, lost=lost)

    async def submit(self, executor_id: str, results: Sequence[ResultIn]) -> SubmitResponse:
        """Takes results. The same one twice is accepted twice and counted once; see contracts section 3, Task life."""
        async with self._database.begin() as connection:
            return await taking.take(connection, executor_id, results)

    async def stats(self, cycle_id: int | None = None) -> TaskStats:
        """Counts of one cycle; of the open one, else the latest, when none is named. Unknown cycles have no tasks.

        An executor is active when it was heard of within a minute, or two leases if that is longer.
        """
        async with self._database.connect() as connection:
            facts = (await connection.execute(_ROUND, {"active_s": self._active_s})).one()
            chosen = facts.latest_id if cycle_id is None else cycle_id
            counts = await progress(connection, -1 if chosen is None else chosen)
        return TaskStats(
            total_tasks=counts.total,
            pending_tasks=counts.pending,
            assigned_tasks=counts.assigned,
            completed_tasks=counts.completed,
            failed_tasks=counts.failed,
            active_executors=facts.active,
            current_cycle_id=facts.open_id,
        )

    async def _see(self, connection: AsyncConnection, executor_id: str, env_ids: Sequence[str] | None) -> int | None:
        """Remembers that this executor is there and what it serves; the running cycle's id."""
        served = None if env_ids is None else json.dumps(sorted(set(env_ids)))
        cycle_id: int | None = await connection.scalar(_SEE, {"executor": executor_id, "envs": served})
        return cycle_id

    async def _claim(
        self, connection: AsyncConnection, size: int, asked: dict[str, Any]
    ) -> list[Row[Any]]:  # Any: raw SQL has no column types
        """Spread over miners as far as that goes, and then whatever comes next."""
        asked = {**asked, **self._times}
        spread = await connection.execute(_CLAIM_SPREAD, {**asked, "size": size, "most_miners": _MOST_MINERS})
        rows = list(spread.all())
        if len(rows) < size:
            rows += (await connection.execute(_CLAIM_NEXT, {**asked, "size": size - len(rows)})).all()
        return rows

    async def _pending(self, connection: AsyncConnection, cycle_id: int, handed_out: int) -> int:
        count = self._count
        is_fresh = count.cycle_id == cycle_id and time.monotonic() - count.taken_at < _COUNT_LIFE_S
        if is_fresh and count.pending - handed_out > _EXACT_UP_TO:
            count.pending -= handed_out
            return count.pending
        pending: int = await connection.scalar(_COUNT_PENDING, {"cycle": cycle_id}) or 0
        self._count = _PendingCount(cycle_id, pending, time.monotonic())
        return pending


def _quarantined(executor_id: str, reason: str) -> ExecutorQuarantined:
    return ExecutorQuarantined(
        f"The executor {executor_id} is quarantined and gets no tasks: {reason}",
        advice=f"Find out why; then an operator lifts it with `kinitro executors pardon {executor_id}`.",
    )


def _lease_rows(leases: Iterable[LeaseRef]) -> str:
    return json.dumps(
        [{"id": str(x.task_uuid), "token": str(x.lease_token), "started": bool(x.started)} for x in leases]
    )


def _split(leases: Iterable[LeaseRef], held: set[UUID]) -> tuple[list[UUID], list[UUID]]:
    ids = dict.fromkeys(lease.task_uuid for lease in leases)
    return [task for task in ids if task in held], [task for task in ids if task not in held]


def _task_out(row: Row[Any]) -> TaskOut:  # Any: raw SQL has no column types
    return TaskOut(
        task_uuid=row.id,
        lease_token=row.lease_token,
        lease_expires_at=row.lease_expires_at,
        cycle_id=row.cycle_id,
        miner_uid=row.uid,
        miner_hotkey=row.hotkey,
        miner_repo=row.repo,
        miner_revision=row.revision,
        env_id=row.env_id,
        seed=row.seed,
        policy_seed=row.policy_seed,
        status=TaskStatus.ASSIGNED,
        created_at=row.created_at,
    )


_SEE = text("""
    with seen as (
        insert into executors (executor_id, env_ids) values (:executor, cast(:envs as jsonb))
        on conflict (executor_id) do update set last_seen_at = clock_timestamp(), env_ids = excluded.env_ids
    ),
    resumed as (delete from notices where topic = 'executor ' || :executor)
    select id from cycles where status = 'running'
""")

_PAUSE = text("""
    with seen as (
        insert into executors (executor_id, env_ids) values (:executor, '[]'::jsonb)
        on conflict (executor_id) do update set last_seen_at = clock_timestamp(), env_ids = excluded.env_ids
    )
    insert into notices (topic, text) values ('executor ' || :executor, :text)
    on conflict (topic) do update set text = excluded.text
""")

_TOUCH = text("""
    insert into executors (executor_id) values (:executor)
    on conflict (executor_id) do update set last_seen_at = clock_timestamp()
""")

_LEASE_PICKED = """
    update tasks t set
        status = 'assigned', lease_token = gen_random_uuid(), executor_id = :executor, started = false,
        leased_at = clock.at,
        lease_expires_at = clock.at
            + make_interval(secs => least(cast(:lease_s as float8), cast(:max_lease_s as float8)))
    from picked, clock where t.id = picked.id
    returning t.id, t.lease_token, t.lease_expires_at, t.cycle_id, t.position, t.uid, t.hotkey, t.repo, t.revision,
              t.env_id, t.seed, t.policy_seed, t.created_at
"""

# A policy mostly runs one episode at a time, so a batch of one miner's tasks would leave an executor's slots idle.
# The first miners in line share it, two tasks each of what the executor then holds, the least held first: as long as
# they last the same ones are handed out, and their policies stay up. A miner's tasks lie between its first position
# and the next miner's; more than its share is looked at, since others lock rows meanwhile.
_PICK_SPREAD = """
    with recursive clock as materialized (select clock_timestamp() as at),
    free as not materialized (
        select id, uid, position from tasks
        where cycle_id = :cycle and status = 'pending' and not_before <= (select at from clock)
          and (cast(:envs as text[]) is null or env_id = any(cast(:envs as text[])))
          and (avoid_executor is null or avoid_executor <> :executor or avoid_until <= (select at from clock))
          and hotkey <> all(cast(:kept_from as text[]))
          and (barred is null or :executor <> all(barred)) and coalesce(only_executor, :executor) = :executor
    ),
    held as materialized (
        select uid, count(*) as tasks from tasks
        where cycle_id = :cycle and status = 'assigned' and executor_id = :executor group by uid
    ),
    width as materialized (
        select least(:most_miners, ceil((:size + coalesce(sum(tasks), 0)) / 2.0)) as miners from held
    ),
    heads as (
        (select uid, position, array[uid] as seen from free order by position limit 1)
        union all
        select next.uid, next.position, heads.seen || next.uid
        from heads cross join lateral (
            select uid, position from free
            where position > heads.position and uid <> all(heads.seen) order by position limit 1
        ) next
        where cardinality(heads.seen) <= (select miners from width)
    ),
    line as materialized (
        select uid, position, lead(position) over (order by position) as until, count(*) over () as miners from heads
    ),
    near as materialized (
        select own.id, own.position,
               coalesce(held.tasks, 0) + row_number() over (partition by line.uid order by own.position) as turn
        from (select * from line order by position limit (select miners from width)) line
        left join held on held.uid = line.uid
        cross join lateral (
            select id, position from free
            where free.uid = line.uid and position >= line.position
              and position < coalesce(line.until, 2147483647)
            order by position limit ceil(4.0 * :size / line.miners)
        ) own
    ),
    picked as materialized (
        select t.id from tasks t join near on near.id = t.id where t.status = 'pending'
        order by near.turn, near.position limit :size for update of t skip locked
    )
    """

_PICK_NEXT = """
    with clock as materialized (select clock_timestamp() as at),
    picked as materialized (
        select id from tasks
        where cycle_id = :cycle and status = 'pending' and not_before <= (select at from clock)
          and (cast(:envs as text[]) is null or env_id = any(cast(:envs as text[])))
          and (avoid_executor is null or avoid_executor <> :executor or avoid_until <= (select at from clock))
          and hotkey <> all(cast(:kept_from as text[]))
          and (barred is null or :executor <> all(barred)) and coalesce(only_executor, :executor) = :executor
        order by position limit :size for update skip locked
    )
    """

_CLAIM_SPREAD = text(_PICK_SPREAD + _LEASE_PICKED)
_CLAIM_NEXT = text(_PICK_NEXT + _LEASE_PICKED)

# Without runs of audits: nobody is to see that there is one it does not get.
_COUNT_PENDING = text("""
    select count(*) from tasks where cycle_id = :cycle and status = 'pending' and audit_id is null
""")

_RENEW = text("""
    with held as (
        select t.id, r.started from tasks t
        join json_to_recordset(cast(:leases as json)) as r(id uuid, token uuid, started bool) on r.id = t.id
        where t.status = 'assigned' and t.lease_token = r.token and t.executor_id = :executor
          and t.leased_at + make_interval(secs => cast(:max_lease_s as float8)) > clock_timestamp()
        order by t.id for update of t
    )
    update tasks t set
        started = t.started or held.started,
        lease_expires_at = least(clock_timestamp() + make_interval(secs => cast(:lease_s as float8)),
                                 t.leased_at + make_interval(secs => cast(:max_lease_s as float8)))
    from held where t.id = held.id
    returning t.id
""")

_RELEASE = text("""
    with held as (
        select t.id, t.started or r.started as started, c.task_max_attempts,
               t.attempts + cast(t.started or r.started as int) as attempts
        from tasks t
        join json_to_recordset(cast(:leases as json)) as r(id uuid, token uuid, started bool) on r.id = t.id
        join cycles c on c.id = t.cycle_id
        where t.status = 'assigned' and t.lease_token = r.token and t.executor_id = :executor
        order by t.id for update of t
    )
    update tasks t set
        attempts = held.attempts, started = held.started, not_before = clock_timestamp(),
        status = case when held.started and held.attempts >= held.task_max_attempts then 'failed' else 'pending' end,
        last_error = case when held.started
            then 'The executor ' || t.executor_id || ' gave it back after its start.' else t.last_error end
    from held where t.id = held.id
    returning t.id, t.cycle_id, t.uid
""")

_ROUND = text("""
    select (select max(id) from cycles) as latest_id,
           (select id from cycles where status in ('pending', 'running')) as open_id,
           coalesce((select array_agg(executor_id order by executor_id) from executors
                     where last_seen_at > clock_timestamp() - make_interval(secs => cast(:active_s as float8))),
                    array[]::text[]) as active
""")

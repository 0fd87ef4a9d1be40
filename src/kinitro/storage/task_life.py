"""What happens to tasks without an executor's word: made, leases expired, time budgets spent, given up, counted.

Lock order, here and in `task_pool`: the cycle's row, then tasks by id. What sweeps many tasks skips locked ones
instead of waiting; the next sweep, a second later, finds what was left.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from operator import attrgetter

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

RETRY_DELAY_S = 5.0
RETRY_DELAY_CAP_S = 300.0
AVOID_S = 60.0
"""How much longer than others the executor that failed a task waits for it: alone, it still gets it in the end."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """One episode to run. Tasks are handed out by `position`."""

    uid: int
    hotkey: str
    repo: str
    revision: str
    env_id: str
    episode_index: int
    seed: int
    policy_seed: int
    position: int
    is_drawn: bool = False
    """Whether its verdict will be checked by another executor's run."""


@dataclass(frozen=True, slots=True)
class CycleProgress:
    """How many of a cycle's episodes are where. Runs of audits are not among them."""

    total: int
    pending: int
    assigned: int
    completed: int
    failed: int

    @property
    def finished(self) -> bool:
        """Nothing is left to run."""
        return self.pending == 0 and self.assigned == 0


_COLUMNS = tuple(field.name for field in fields(PlannedTask))


async def create_tasks(connection: AsyncConnection, cycle_id: int, tasks: Iterable[PlannedTask]) -> int:
    """Makes a cycle's tasks, by COPY, and returns their number."""
    # Also opens SQLAlchemy's transaction, which a COPY behind its back would not.
    await connection.execute(_LOCK_CYCLE, {"cycle": cycle_id})
    raw = (await connection.get_raw_connection()).driver_connection
    assert isinstance(raw, asyncpg.Connection)
    record_of = attrgetter(*_COLUMNS)
    records = ((cycle_id, *record_of(task)) for task in tasks)
    done: str = await raw.copy_records_to_table("tasks", records=records, columns=("cycle_id", *_COLUMNS))
    # The planner must not believe that the table is as small as it was.
    await connection.execute(text("analyze tasks"))
    return int(done.removeprefix("COPY "))


async def expire_leases(connection: AsyncConnection, cycle_id: int) -> int:
    """Takes back the tasks whose lease ran out, and returns their number.

    A started one counts an attempt, waits a growing delay and avoids its last executor, or has `failed` at the
    cycle's limit. One that was not started is pending again as if nothing had been. An executor that was not heard of
    since is not counted on until it is: nobody who holds its row, for being just heard of, is waited for.
    """
    rows = (await connection.execute(_EXPIRE, {"cycle": cycle_id, **_DELAYS})).all()
    if returned := {row.uid for row in rows if row.status == "pending"}:
        await close_over_budget(connection, cycle_id, returned)
    return len(rows)


async def close_over_budget(connection: AsyncConnection, cycle_id: int, uids: Collection[int] | None = None) -> int:
    """Gives every pending task of miners whose policy time is spent its verdict, `too_slow`; returns their number.

    Looks at `uids` only, or at all miners. Leased tasks go on: they reach a verdict, or come back here.
    """
    result = await connection.execute(_CLOSE, {"cycle": cycle_id, "uids": None if uids is None else sorted(uids)})
    return len(result.all())


async def fail_remaining(connection: AsyncConnection, cycle_id: int, reason: str) -> int:
    """Ends a cycle's pending and leased episodes as `failed`, and returns their number."""
    await connection.execute(_LOCK_CYCLE, {"cycle": cycle_id})
    result = await connection.execute(_FAIL, {"cycle": cycle_id, "reason": reason})
    return len(result.all())


async def forget_executors(connection: AsyncConnection) -> int:
    """Forgets the executors not heard of for a day, and returns their number. One that comes back is known again."""
    result = await connection.execute(_FORGET)
    return len(result.all())


async def progress(connection: AsyncConnection, cycle_id: int) -> CycleProgress:
    """Counts a cycle's tasks. All zero for a cycle that has none."""
    row = (await connection.execute(_PROGRESS, {"cycle": cycle_id})).one()
    return CycleProgress(row.total, row.pending, row.assigned, row.completed, row.failed)


_DELAYS = {"delay_s": RETRY_DELAY_S, "delay_cap_s": RETRY_DELAY_CAP_S, "avoid_s": AVOID_S}

_LOCK_CYCLE = text("select 1 from cycles where id = :cycle for no key update")

_EXPIRE = text("""
    with clock as materialized (select clock_timestamp() as at),
    lost as (
        select t.id, c.task_max_attempts, t.attempts + cast(t.started as int) as attempts, clock.at,
               least(cast(:delay_s as float8) * 2 ^ least(t.attempts, 30), cast(:delay_cap_s as float8)) as delay_s
        from tasks t join cycles c on c.id = t.cycle_id cross join clock
        where t.cycle_id = :cycle and t.status = 'assigned' and t.lease_expires_at <= (select at from clock)
        order by t.id for update of t skip locked
    ),
    expired as (
        update tasks t set
            attempts = lost.attempts,
            status = case when t.started and lost.attempts >= lost.task_max_attempts then 'failed' else 'pending' end,
            not_before = case when t.started then lost.at + make_interval(secs => lost.delay_s) else lost.at end,
            avoid_executor = case when t.started then t.executor_id end,
            avoid_until = case when t.started
                then lost.at + make_interval(secs => lost.delay_s + cast(:avoid_s as float8)) end,
            last_error = case when t.started
                then 'The executor ' || t.executor_id || ' did not renew its lease.' else t.last_error end
        from lost where t.id = lost.id
        returning t.uid, t.status, t.executor_id, t.lease_expires_at, lost.at
    ),
    silent as (
        select e.executor_id, expired.at from executors e join expired on expired.executor_id = e.executor_id
        where e.last_seen_at < expired.lease_expires_at for update of e skip locked
    ),
    gone as (update executors e set lost_at = silent.at from silent where e.executor_id = silent.executor_id)
    select uid, status from expired
""")

_CLOSE = text("""
    with spent as (
        select v.uid, c.miner_time_budget_s
        from verdicts v join cycles c on c.id = v.cycle_id
        where v.cycle_id = :cycle and (cast(:uids as int[]) is null or v.uid = any(cast(:uids as int[])))
        group by v.uid, c.miner_time_budget_s
        having sum(v.policy_seconds) > c.miner_time_budget_s
    ),
    picked as (
        select t.id, spent.miner_time_budget_s from tasks t join spent on spent.uid = t.uid
        where t.cycle_id = :cycle and t.status = 'pending' and t.audit_id is null
        order by t.id for update of t skip locked
    ),
    closed as (
        update tasks t set status = 'completed' from picked where t.id = picked.id
        returning t.id, t.cycle_id, t.uid, t.env_id, t.episode_index, picked.miner_time_budget_s
    )
    insert into verdicts (task_id, cycle_id, uid, env_id, episode_index, success, score, total_reward, timesteps,
                          error, error_kind)
    select id, cycle_id, uid, env_id, episode_index, false, 0, 0, 0,
           'too_slow: the policy has used its ' || miner_time_budget_s || ' s of this cycle', 'policy'
    from closed
    returning task_id
""")

_FAIL = text("""
    update tasks t set status = 'failed', last_error = :reason
    from (select id from tasks where cycle_id = :cycle and audit_id is null and status in ('pending', 'assigned')
          order by id for update) open
    where t.id = open.id
    returning t.id
""")

_FORGET = text("""
    with gone as (
        delete from executors where last_seen_at < clock_timestamp() - interval '1 day' returning executor_id
    ),
    unsaid as (delete from notices using gone where topic = 'executor ' || gone.executor_id)
    select executor_id from gone
""")

_PROGRESS = text("""
    select count(*) as total,
           count(*) filter (where status = 'pending') as pending,
           count(*) filter (where status = 'assigned') as assigned,
           count(*) filter (where status = 'completed') as completed,
           count(*) filter (where status = 'failed') as failed
    from tasks where cycle_id = :cycle and audit_id is null
""")

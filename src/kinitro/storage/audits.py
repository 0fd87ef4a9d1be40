"""Audits: which verdicts are checked by further runs, what those came to, and how each check ended.

The scheduler writes here, on the connection that holds its lock, with the cycle's row locked: no result is taken
meanwhile. An audit's runs are tasks like any other to executors.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.storage.claims import FileClaim
from kinitro.types import AuditState


@dataclass(frozen=True)
class AuditRun:
    """One run of an episode, as far as it is compared with another. `is_error`: the policy's failure ended it.

    `simulation` is what the environment ran with (architecture, graphics, versions), as canonical JSON.
    """

    executor_id: str
    success: bool
    is_error: bool = False
    trace_digest: str | None = None
    tree_digest: str | None = None
    image_digest: str | None = None
    simulation: str | None = None


@dataclass(frozen=True)
class OpenAudit:
    """An audit that waits for its next step. `runs` begin with the verdict that is checked.

    `gave_up`: its last run could not be done. `is_steady`: the policy was not found to be unsteady.
    """

    id: int
    uid: int
    hotkey: str
    env_id: str
    runs: tuple[AuditRun, ...]
    is_steady: bool
    gave_up: bool


@dataclass(frozen=True)
class LiveExecutor:
    """An executor that is there and gets tasks. `env_ids` is None when it serves all; not those of `kept_from`."""

    executor_id: str
    env_ids: frozenset[str] | None
    kept_from: frozenset[str]

    def may_run(self, env_id: str, hotkey: str) -> bool:
        """Whether it could be handed a task of this environment and miner."""
        return (self.env_ids is None or env_id in self.env_ids) and hotkey not in self.kept_from


async def lock_cycle(connection: AsyncConnection, cycle_id: int) -> None:
    """Lets no result of the cycle be taken until the transaction ends."""
    await connection.execute(_LOCK_CYCLE, {"cycle": cycle_id})


async def open_audits(connection: AsyncConnection, cycle_id: int) -> int:
    """Opens an audit for each drawn episode that has got its verdict from an executor; returns how many."""
    return len((await connection.execute(_OPEN, {"cycle": cycle_id})).all())


async def open_audits_of_claims(connection: AsyncConnection, cycle_id: int, claims: Collection[FileClaim]) -> int:
    """Opens an audit of one verdict for each of these claims of which none is checked yet; returns how many."""
    asked = {"cycle": cycle_id, "claims": json.dumps([asdict(claim) for claim in claims])}
    return len((await connection.execute(_OPEN_OF_CLAIMS, asked)).all())


async def audits_to_judge(connection: AsyncConnection, cycle_id: int) -> list[OpenAudit]:
    """The cycle's open audits but those with a run under way."""
    rows = (await connection.execute(_TO_JUDGE, {"cycle": cycle_id})).all()
    runs: dict[int, list[AuditRun]] = {row.id: [_run(row)] for row in rows}
    for row in await connection.execute(_RUNS, {"ids": list(runs)}):
        runs[row.audit_id].append(_run(row))
    return [
        OpenAudit(row.id, row.uid, row.hotkey, row.env_id, tuple(runs[row.id]), row.is_steady, row.gave_up)
        for row in rows
    ]


def _run(row: Row[Any]) -> AuditRun:  # Any: raw SQL has no column types
    return AuditRun(
        executor_id=row.executor_id,
        success=row.success,
        is_error=row.is_error,
        trace_digest=row.trace_digest,
        tree_digest=row.tree_digest,
        image_digest=row.image_digest,
        simulation=row.simulation,
    )


async def live_executors(connection: AsyncConnection) -> list[LiveExecutor]:
    """Those that are there and not quarantined."""
    return [
        LiveExecutor(row.executor_id, None if row.env_ids is None else frozenset(row.env_ids), frozenset(row.kept_from))
        for row in await connection.execute(_LIVE)
    ]


async def ask_for_run(connection: AsyncConnection, audit_id: int, *, barred: Collection[str], only: str | None) -> None:
    """Makes the task of an open audit's next run. To who gets it, it looks like the one that it checks did."""
    await connection.execute(_ASK, {"audit": audit_id, "barred": sorted(barred), "only": only})


async def close_audit(
    connection: AsyncConnection, audit_id: int, state: AuditState, contradicted: str | None = None
) -> bool:
    """Ends an open audit and any run of it; false when it had been ended already."""
    asked = {"ids": [audit_id], "state": state, "contradicted": contradicted}
    return bool((await connection.execute(_CLOSE, asked)).all())


async def mark_unsteady(connection: AsyncConnection, audit_id: int) -> bool:
    """Remembers that the audited policy does not do the same under the same seed; false when that was known."""
    return bool((await connection.execute(_UNSTEADY, {"audit": audit_id})).all())


async def disputes(connection: AsyncConnection, executor_id: str) -> tuple[int, int]:
    """Miners over whom this executor lost, and won, its first decided dispute since it was last pardoned."""
    row = (await connection.execute(_DISPUTES, {"executor": executor_id})).one()
    return row.lost, row.won


async def runs_under_way(connection: AsyncConnection, cycle_id: int) -> int:
    """How many runs of audits wait for, or are with, an executor that is alive."""
    return int(await connection.scalar(_UNDER_WAY, {"cycle": cycle_id}) or 0)


async def lapse_audits(connection: AsyncConnection, cycle_id: int) -> Counter[AuditState]:
    """Ends what is still open of the cycle's audits, as undecided where two runs differ; counts by how they ended."""
    ended: Counter[AuditState] = Counter()
    rows = (await connection.execute(_STILL_OPEN, {"cycle": cycle_id})).all()
    for state in (AuditState.UNDECIDED, AuditState.LAPSED):
        ids = [row.id for row in rows if row.is_disputed == (state is AuditState.UNDECIDED)]
        closed = await connection.execute(_CLOSE, {"ids": ids, "state": state, "contradicted": None})
        ended[state] = len(closed.all())
    return ended


async def lock_executors(connection: AsyncConnection, executor_ids: Iterable[str]) -> None:
    """Lets these executors lease and renew nothing until the transaction ends."""
    await connection.execute(_LOCK_EXECUTORS, {"ids": sorted(set(executor_ids))})


_LOCK_CYCLE = text("select 1 from cycles where id = :cycle for no key update")

_LOCK_EXECUTORS = text("""
    select 1 from executors where executor_id = any(cast(:ids as text[])) order by executor_id for update
""")

_OPEN = text("""
    insert into audits (cycle_id, task_id, hotkey, executor_id)
    select t.cycle_id, t.id, t.hotkey, v.executor_id from tasks t join verdicts v on v.task_id = t.id
    where t.cycle_id = :cycle and t.is_drawn and t.status = 'completed' and v.executor_id is not null
      and not exists (select 1 from audits a where a.task_id = t.id and not a.is_moot)
    order by t.id
    returning id
""")

_OPEN_OF_CLAIMS = text("""
    insert into audits (cycle_id, task_id, hotkey, executor_id)
    select distinct on (v.uid, v.executor_id, v.tree_digest) t.cycle_id, t.id, t.hotkey, v.executor_id
    from json_to_recordset(cast(:claims as json)) as c(uid int, executor_id text, tree_digest text)
    join verdicts v on v.cycle_id = :cycle and v.uid = c.uid and v.executor_id = c.executor_id
                       and v.tree_digest = c.tree_digest
    join tasks t on t.id = v.task_id
    where not exists (
        select 1 from audits a join verdicts w on w.task_id = a.task_id
        where a.cycle_id = :cycle and not a.is_moot
          and w.uid = v.uid and w.executor_id = v.executor_id and w.tree_digest = v.tree_digest)
    order by v.uid, v.executor_id, v.tree_digest, t.position
    returning id
""")

_TO_JUDGE = text("""
    select a.id, t.uid, t.hotkey, t.env_id, v.executor_id, v.success, v.error_kind is not null as is_error,
           v.trace_digest, v.tree_digest, v.image_digest, cast(c.document -> 'simulation' as text) as simulation,
           not exists (select 1 from unsteady_policies u
                       where u.repo_key = lower(t.repo) and u.revision = t.revision) as is_steady,
           exists (select 1 from tasks r where r.audit_id = a.id and r.status = 'failed') as gave_up
    from audits a join tasks t on t.id = a.task_id join verdicts v on v.task_id = t.id
    left join records e on e.task_id = t.id left join conditions c on c.digest = e.conditions
    where a.cycle_id = :cycle and a.state = 'open'
      and not exists (select 1 from tasks r where r.audit_id = a.id and r.status in ('pending', 'assigned'))
    order by a.id
""")

_RUNS = text("""
    select r.audit_id, r.executor_id, r.success, r.error is not null as is_error, r.trace_digest, r.tree_digest,
           r.image_digest, cast(c.document -> 'simulation' as text) as simulation
    from audit_runs r left join conditions c on c.digest = r.conditions
    where r.audit_id = any(cast(:ids as bigint[])) order by r.decided_at, r.task_id
""")

_LIVE = text("""
    select e.executor_id, e.env_ids,
           array(select q.hotkey from quarantines q
                 where q.executor_id = e.executor_id and q.lifted_at is null and q.hotkey is not null) as kept_from
    from present_executors e
    where not exists (select 1 from quarantines q
                      where q.executor_id = e.executor_id and q.lifted_at is null and q.hotkey is null)
""")

_ASK = text("""
    insert into tasks (cycle_id, position, uid, hotkey, repo, revision, env_id, episode_index, seed, policy_seed,
                       created_at, audit_id, barred, only_executor)
    select t.cycle_id, t.position, t.uid, t.hotkey, t.repo, t.revision, t.env_id, t.episode_index, t.seed,
           t.policy_seed, t.created_at, a.id, cast(:barred as text[]), :only
    from audits a join tasks t on t.id = a.task_id where a.id = :audit and a.state = 'open'
""")

# The first other run is by the other party: it is what the audit is about.
_CLOSE = text("""
    with closed as (
        update audits a set
            state = :state, contradicted = cast(:contradicted as text), closed_at = clock_timestamp(),
            other_id = (select r.executor_id from audit_runs r where r.audit_id = a.id
                        order by r.decided_at, r.task_id limit 1)
        where a.id = any(cast(:ids as bigint[])) and a.state = 'open'
        returning a.id
    ),
    ended as (
        update tasks t set status = 'failed', lease_token = null, last_error = 'The audit ended.'
        from closed where t.audit_id = closed.id and t.status in ('pending', 'assigned')
    )
    select id from closed
""")

_UNSTEADY = text("""
    insert into unsteady_policies (repo_key, revision, audit_id)
    select lower(t.repo), t.revision, a.id from audits a join tasks t on t.id = a.task_id where a.id = :audit
    on conflict do nothing
    returning audit_id
""")

_DISPUTES = text("""
    with pardoned as (
        select coalesce(max(lifted_at), '-infinity') as at from quarantines where executor_id = :executor
    ),
    firsts as (
        select distinct on (a.hotkey) a.contradicted = :executor as lost from audits a cross join pardoned
        where a.state = 'contradicted' and :executor in (a.executor_id, a.other_id) and a.closed_at > pardoned.at
        order by a.hotkey, a.closed_at, a.id
    )
    select count(*) filter (where lost) as lost, count(*) filter (where not lost) as won from firsts
""")

_UNDER_WAY = text("""
    select count(*) from tasks t
    where t.cycle_id = :cycle and t.audit_id is not null and t.status in ('pending', 'assigned')
      and exists (select 1 from present_executors e
                  where e.executor_id <> all(t.barred) and coalesce(t.only_executor, e.executor_id) = e.executor_id
                    and (e.env_ids is null or e.env_ids ? t.env_id)
                    and not exists (select 1 from quarantines q
                                    where q.executor_id = e.executor_id and q.lifted_at is null and q.hotkey is null))
""")

_STILL_OPEN = text("""
    select a.id, exists (select 1 from audit_runs r where r.audit_id = a.id) as is_disputed
    from audits a where a.cycle_id = :cycle and a.state = 'open' order by a.id
""")

"""Executors that others contradicted: what they get no more, what of theirs is run again, and how that is lifted."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.schemas import QuarantineOut
from kinitro.storage.task_life import close_over_budget


@dataclass(frozen=True)
class KnownExecutor:
    """An executor that is remembered, and why it gets no tasks, or fewer, if so."""

    executor_id: str
    last_seen_at: datetime | None
    quarantines: tuple[QuarantineOut, ...]


@dataclass(frozen=True)
class Standing:
    """What one executor may get. `reason` is set when that is nothing; else nothing of the hotkeys in `kept_from`."""

    reason: str | None = None
    kept_from: tuple[str, ...] = ()


async def standing(connection: AsyncConnection, executor_id: str, env_ids: Sequence[str] | None) -> Standing:
    """An executor's present standing.

    A miner that no other live executor may serve as well is not in `kept_from`: its episodes must be run by somebody.
    """
    served = None if env_ids is None else json.dumps(list(env_ids))
    row = (await connection.execute(_STANDING, {"executor": executor_id, "envs": served})).one()
    return Standing(row.reason, tuple(row.kept_from))


async def quarantine(
    connection: AsyncConnection, cycle_id: int, executor_id: str, hotkey: str | None, reason: str
) -> int | None:
    """Gives an executor no more tasks, or none of one miner's, and takes back what it reported of them in this cycle.

    Its verdicts are withdrawn, its tasks pending again as new; audits of those verdicts are moot. Returns the number
    of verdicts, or None, having done nothing, when it was so already. The cycle's and the executor's rows are locked.
    """
    asked = {"cycle": cycle_id, "executor": executor_id, "hotkey": hotkey}
    entry = await connection.scalar(_ENTER, {**asked, "reason": reason})
    if entry is None:
        return None
    await connection.execute(_FORGET_CLAIMS, asked)
    await connection.execute(_END_AUDITS, asked)
    withdrawn = int(await connection.scalar(_WITHDRAW, asked) or 0)
    await close_over_budget(connection, cycle_id)
    await connection.execute(_NOTE, {"entry": entry, "withdrawn": withdrawn})
    return withdrawn


async def pardon(connection: AsyncConnection, executor_id: str) -> int:
    """Lifts all that an executor is kept from, and returns how much that was. What it lost before counts no more."""
    return len((await connection.execute(_PARDON, {"executor": executor_id})).all())


async def quarantines(connection: AsyncConnection) -> list[QuarantineOut]:
    """What is in force, the latest first."""
    return [QuarantineOut(**row) for row in (await connection.execute(_ACTIVE)).mappings()]


async def known_executors(connection: AsyncConnection) -> list[KnownExecutor]:
    """Those heard of within a day, and whoever is quarantined, by name."""
    seen = {row.executor_id: row.last_seen_at for row in await connection.execute(_KNOWN)}
    kept: dict[str, list[QuarantineOut]] = {executor_id: [] for executor_id in seen}
    for entry in await quarantines(connection):
        kept.setdefault(entry.executor_id, []).append(entry)
    return [KnownExecutor(name, seen.get(name), tuple(entries)) for name, entries in sorted(kept.items())]


_KNOWN = text("select executor_id, last_seen_at from executors")

_STANDING = text("""
    select
        (select q.reason from quarantines q
         where q.executor_id = :executor and q.lifted_at is null and q.hotkey is null) as reason,
        array(select q.hotkey from quarantines q
              where q.executor_id = :executor and q.lifted_at is null and q.hotkey is not null
                and exists (
                    select 1 from present_executors other
                    where other.executor_id <> :executor
                      and (other.env_ids is null or other.env_ids @> cast(:envs as jsonb))
                      and not exists (
                          select 1 from quarantines o
                          where o.executor_id = other.executor_id and o.lifted_at is null
                            and coalesce(o.hotkey, q.hotkey) = q.hotkey))) as kept_from
""")

_ENTER = text("""
    insert into quarantines (executor_id, hotkey, cycle_id, reason)
    values (:executor, cast(:hotkey as text), :cycle, :reason)
    on conflict do nothing returning id
""")

_NOTE = text("update quarantines set withdrawn = :withdrawn where id = :entry")

# In earlier cycles too: who is a copy by its word alone is evaluated again.
_FORGET_CLAIMS = text("""
    delete from file_claims
    where executor_id = :executor and (cast(:hotkey as text) is null or hotkey = :hotkey)
""")

# Audits of what is withdrawn, and, when nothing it says counts any more, those in which it had a say.
_END_AUDITS = text("""
    with touched as (
        select a.id, a.executor_id = :executor as is_moot from audits a
        where a.cycle_id = :cycle and (cast(:hotkey as text) is null or a.hotkey = :hotkey)
          and (a.executor_id = :executor
               or cast(:hotkey as text) is null and a.state = 'open'
                  and exists (select 1 from audit_runs r where r.audit_id = a.id and r.executor_id = :executor))
    ),
    ended as (
        update tasks t set status = 'failed', lease_token = null, last_error = 'The audit ended.'
        from touched where t.audit_id = touched.id and t.status in ('pending', 'assigned')
    )
    update audits a set
        is_moot = touched.is_moot,
        state = case a.state when 'open' then 'lapsed' else a.state end,
        closed_at = coalesce(a.closed_at, clock_timestamp())
    from touched where a.id = touched.id
""")

# With the time it said a policy took goes what followed from that: a budget that was not spent after all.
_WITHDRAW = text("""
    with gone as materialized (
        select v.task_id, v.executor_id from verdicts v join tasks t on t.id = v.task_id
        where v.cycle_id = :cycle and v.executor_id = :executor
          and (cast(:hotkey as text) is null or t.hotkey = :hotkey)
        union all
        select v.task_id, v.executor_id from verdicts v
        where v.cycle_id = :cycle and v.executor_id is null and v.uid in (
            select v.uid from verdicts v join tasks t on t.id = v.task_id
            where v.cycle_id = :cycle and v.executor_id = :executor
              and (cast(:hotkey as text) is null or t.hotkey = :hotkey))
    ),
    kept as (
        insert into withdrawn_verdicts (task_id, executor_id, verdict, record)
        select gone.task_id, gone.executor_id, to_jsonb(v), to_jsonb(r) - 'steps'
        from gone join verdicts v on v.task_id = gone.task_id left join records r on r.task_id = gone.task_id
        order by gone.task_id
        returning task_id, executor_id
    ),
    without_records as (delete from records r using kept where r.task_id = kept.task_id),
    again as (
        update tasks t set
            status = 'pending', lease_token = null, executor_id = null, started = false, last_error = null,
            attempts = case when t.status in ('completed', 'failed') then 0 else t.attempts end,
            not_before = clock_timestamp(), avoid_executor = null, avoid_until = null
        where t.cycle_id = :cycle
          and (t.id in (select task_id from kept)
               or t.executor_id = :executor and t.status <> 'completed'
                  and (cast(:hotkey as text) is null or t.hotkey = :hotkey)
                  and (t.audit_id is null or t.status in ('pending', 'assigned')))
    ),
    without_verdicts as (delete from verdicts v using kept where v.task_id = kept.task_id)
    select count(*) from kept where executor_id is not null
""")

_PARDON = text("""
    update quarantines set lifted_at = clock_timestamp()
    where executor_id = :executor and lifted_at is null returning id
""")

_ACTIVE = text("""
    select executor_id, hotkey, cycle_id, reason, withdrawn, since from quarantines
    where lifted_at is null order by since desc, id desc
""")

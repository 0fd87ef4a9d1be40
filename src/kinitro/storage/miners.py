"""What one miner may know of its own submission: where it stands, what it waits for, what it last came to.

Nothing here shows an outcome of a cycle that is still open: its tasks are done or not, however they ended.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.schemas import CycleOut, LastResultOut, MinerOut, MinerStatus, QueueOut
from kinitro.storage import reads
from kinitro.storage import tables as t
from kinitro.types import CycleStatus, MinerState

NO_SCHEDULER = "A scheduler: none runs on this API's database."
_OPEN = (CycleStatus.PENDING, CycleStatus.RUNNING)
_SHOWN_ERRORS = 5


async def load_miner_status(connection: AsyncConnection, hotkey: str) -> MinerStatus | None:
    """One committed hotkey, as `list_miners` has it, and more; None when the latest look at the chain had no such."""
    miner = await reads.load_miner(connection, hotkey)
    if miner is None:
        return None
    cycle = await _newest(connection)
    queue = await _queue(connection, cycle, hotkey) if cycle is not None and cycle.status in _OPEN else None
    return MinerStatus(
        **(miner.model_dump() | await _sighting(connection, miner)),
        queue=None if queue is None else queue.out,
        waiting_for=await _waits(connection, miner, cycle, queue),
        last_result=await _last_result(connection, miner),
    )


async def why_unknown(connection: AsyncConnection, hotkey: str) -> str:
    """Why there is nothing on a hotkey, for its owner, and when that may change."""
    cycle = await _newest(connection)
    last = (await connection.execute(_LAST_SEEN, {"hotkey": hotkey})).one_or_none()
    known = (
        f"There is no miner {hotkey} here. See `kinitro miner show-commitment`: is it registered on this subnet, and "
        "has it committed?"
        if last is None
        else f"Hotkey {hotkey} was last in cycle {last.cycle_id}, at block {last.block_number}, and is in none since: "
        "it is no longer registered, or its commitment is gone. See `kinitro miner show-commitment`."
    )
    if cycle is not None and cycle.status in _OPEN:
        return f"{known} Commitments are read anew when cycle {cycle.id} has ended; it is {cycle.status.value}."
    return f"{known} What a new commitment waits for: {' '.join(await _next_look(connection, cycle))}"


async def _newest(connection: AsyncConnection) -> CycleOut | None:
    return next(iter(await reads.list_cycles(connection, 1)), None)


@dataclass(frozen=True)
class _Queue:
    """`unserved` are environments with episodes left; the numbers count what waits for another try or is others'."""

    out: QueueOut
    retried: int
    unserved: tuple[str, ...]
    others: int


async def _queue(connection: AsyncConnection, cycle: CycleOut, hotkey: str) -> _Queue | None:
    """None when the cycle does not evaluate this hotkey."""
    query = sa.select(t.cycle_miners.c.uid).where(
        t.cycle_miners.c.cycle_id == cycle.id,
        t.cycle_miners.c.hotkey == hotkey,
        t.cycle_miners.c.state == MinerState.EVALUATED,
    )
    uid = await connection.scalar(query)
    if uid is None:
        return None
    row = (await connection.execute(_TASKS, {"cycle": cycle.id, "uid": uid})).one()
    unserved = set(await reads.unserved_environments(connection))
    return _Queue(
        QueueOut(
            cycle_id=cycle.id,
            status=cycle.status,
            tasks_total=row.total,
            tasks_done=row.done,
            tasks_running=row.running,
            tasks_left=row.left,
            tasks_ahead=row.tasks_ahead,
            miners_ahead=row.miners_ahead,
        ),
        row.retried,
        tuple(sorted(unserved & set(row.environments or ()))),
        row.others,
    )


async def _waits(
    connection: AsyncConnection, miner: MinerOut, cycle: CycleOut | None, queue: _Queue | None
) -> list[str]:
    if miner.state in (MinerState.COPY, MinerState.REJECTED):
        return []
    if cycle is None or cycle.status not in _OPEN:
        return await _next_look(connection, cycle)
    scheduler = [] if await reads.scheduler_runs(connection) else [NO_SCHEDULER]
    if queue is None:
        return [*scheduler, f"The end of cycle {cycle.id}, which runs without it; then it is looked at again."]
    if cycle.status is CycleStatus.PENDING:
        chain = (await reads.load_notices(connection)).get("chain")
        block = f"Block {cycle.target_block} of the chain to be final: the seeds of cycle {cycle.id} follow from it."
        return [*scheduler, *([chain] if chain else []), block]
    return [*scheduler, *await _running_waits(connection, queue)]


async def _running_waits(connection: AsyncConnection, queue: _Queue) -> list[str]:
    now, found = queue.out, []
    if now.tasks_left == now.tasks_running == 0:
        rest = f"{queue.others} episodes of other miners are left" if queue.others else "every episode is done"
        return [f"The end of cycle {now.cycle_id}: {rest}. Outcomes are published then."]
    if queue.unserved:
        found.append(reads.nobody_serves(queue.unserved))
        notices = await reads.load_notices(connection)
        found += [text for topic, text in notices.items() if topic.startswith("executor ")]
    if queue.retried:
        found.append(f"{queue.retried} episodes are to be tried again after a fault that was not the policy's.")
    if now.tasks_ahead and not now.tasks_running:
        found.append(f"Its turn: {now.tasks_ahead} episodes of {now.miners_ahead} miners stand before it.")
    return found or [f"Its own episodes: {now.tasks_running} are leased to executors, {now.tasks_left} are left."]


async def _next_look(connection: AsyncConnection, cycle: CycleOut | None) -> list[str]:
    """What stands before the next reading of the chain."""
    notices = await reads.load_notices(connection)
    found = [] if await reads.scheduler_runs(connection) else [NO_SCHEDULER]
    found += [notices[topic] for topic in ("chain", "hub", "miners", "next") if topic in notices]
    if not found and cycle is None:
        return ["The first cycle: it begins as soon as the scheduler has read the chain."]
    return found or ["The next cycle, which begins now."]


async def _sighting(connection: AsyncConnection, miner: MinerOut) -> dict[str, Any]:  # Any: fields of a model
    latest = sa.select(sa.func.max(t.cycles.c.id)).scalar_subquery()
    listed = (
        sa.select(t.cycle_miners.c.committed_block, t.cycles.c.block_number)
        .join(t.cycles, t.cycles.c.id == t.cycle_miners.c.cycle_id)
        .where(t.cycle_miners.c.cycle_id == latest, t.cycle_miners.c.hotkey == miner.hotkey)
    )
    seen = (await connection.execute(listed)).one_or_none()
    first = sa.select(t.submissions.c.first_seen_block).where(
        t.submissions.c.hotkey == miner.hotkey,
        t.submissions.c.repo_key == (miner.repo or "").lower(),
        t.submissions.c.revision == (miner.revision or ""),
    )
    return {
        "committed_block": None if seen is None else seen.committed_block,
        "seen_at_block": None if seen is None else seen.block_number,
        "first_seen_block": await connection.scalar(first),
    }


async def _last_result(connection: AsyncConnection, miner: MinerOut) -> LastResultOut | None:
    asked = {"hotkey": miner.hotkey, "repo": (miner.repo or "").lower(), "revision": miner.revision or ""}
    row = (await connection.execute(_LAST_RESULT, asked)).one_or_none()
    if row is None:
        return None
    score = t.scores
    scores = sa.select(score).where(score.c.cycle_id == row.cycle_id, score.c.uid == row.uid).order_by(score.c.env_id)
    rates = list(await connection.execute(scores))
    errors = await connection.execute(_ERRORS, {"cycle": row.cycle_id, "uid": row.uid, "most": _SHOWN_ERRORS})
    return LastResultOut(
        cycle_id=row.cycle_id,
        block_number=row.block_number,
        completed_at=row.completed_at,
        success_rates={each.env_id: each.success_rate for each in rates},
        episodes_completed=sum(each.episodes_completed for each in rates),
        episodes_failed=sum(each.episodes_failed for each in rates),
        policy_errors={each.error: each.episodes for each in errors},
        prizes=sorted(prize for prize, holder in row.prizes.items() if holder == row.uid),
        points=row.points.get(str(row.uid), 0),
        weight=_share(row),
    )


def _share(row: sa.Row[Any]) -> float | None:  # Any: a row's columns are not typed
    return None if row.weights is None else float(row.weights.get(str(row.uid), 0.0))


# Without runs of audits: nobody is to see of which episodes there are any.
_TASKS = sa.text("""
    with mine as materialized (
        select count(*) as total,
               count(*) filter (where status in ('completed', 'failed')) as done,
               count(*) filter (where status = 'assigned') as running,
               count(*) filter (where status = 'pending') as left,
               count(*) filter (where status = 'pending' and not_before > clock_timestamp()) as retried,
               min(position) filter (where status = 'pending') as next,
               array_agg(distinct env_id) filter (where status = 'pending') as environments
        from tasks where cycle_id = :cycle and uid = :uid and audit_id is null
    )
    select mine.*, ahead.*,
           (select count(*) from tasks
            where cycle_id = :cycle and uid <> :uid and audit_id is null
              and status in ('pending', 'assigned')) as others
    from mine cross join lateral (
        select count(*) as tasks_ahead, count(distinct uid) as miners_ahead from tasks
        where cycle_id = :cycle and audit_id is null and status = 'pending' and position < mine.next
    ) ahead
""")

_LAST_SEEN = sa.text("""
    select m.cycle_id, c.block_number
    from submissions s join cycle_miners m on m.submission_id = s.id join cycles c on c.id = m.cycle_id
    where s.hotkey = :hotkey order by m.cycle_id desc limit 1
""")

_LAST_RESULT = sa.text("""
    select m.cycle_id, m.uid, c.block_number, c.completed_at, standings.prizes, standings.points, w.weights
    from submissions s join cycle_miners m on m.submission_id = s.id join cycles c on c.id = m.cycle_id
    join standings on standings.cycle_id = c.id left join weights w on w.cycle_id = c.id
    where s.hotkey = :hotkey and s.repo_key = :repo and s.revision = :revision
      and m.state = 'evaluated' and c.status = 'completed'
    order by m.cycle_id desc limit 1
""")

_ERRORS = sa.text("""
    select left(split_part(error, chr(10), 1), 200) as error, count(*) as episodes
    from verdicts where cycle_id = :cycle and uid = :uid and error is not null
    group by 1 order by 2 desc, 1 limit :most
""")

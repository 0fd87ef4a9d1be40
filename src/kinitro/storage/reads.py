"""What the public may read. No query here shows the seeds, salt or outcomes of a cycle that is still open."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.schemas import (
    AuditCounts,
    CycleOut,
    EnvironmentOut,
    MinerOut,
    ScoreOut,
    ScoresOut,
    SystemStatus,
    WeightsOut,
    WeightsU16,
)
from kinitro.storage import tables as t
from kinitro.storage.cycles import LEADER_LOCK, PRESENCE_LOCK
from kinitro.storage.quarantine import quarantines
from kinitro.types import AuditState, CycleStatus, MinerState, TaskStatus

_OPEN = (CycleStatus.PENDING, CycleStatus.RUNNING)

_SCHEDULER = sa.text(f"""
    select exists (
        select from pg_locks where locktype = 'advisory' and granted and objsubid = 1 and classid = 0
          and objid in ({LEADER_LOCK}, {PRESENCE_LOCK})
          and database = (select oid from pg_database where datname = current_database())
    )
""")  # noqa: S608 - a number of ours

# Explicit, so that a salt can't slip out with a new use of the row.
_CYCLE: tuple[sa.ColumnElement[Any], ...] = (  # Any: columns of several types
    t.cycles.c.id,
    t.cycles.c.block_number,
    t.cycles.c.started_at,
    t.cycles.c.completed_at,
    t.cycles.c.status,
    t.cycles.c.n_miners,
    sa.func.jsonb_array_length(t.cycles.c.environments).label("n_environments"),
    t.cycles.c.salt_sha256,
    t.cycles.c.target_block,
    t.cycles.c.failure_reason,
)


async def load_cycle(connection: AsyncConnection, cycle_id: int) -> CycleOut | None:
    """One cycle, open or closed, or None when there is no such cycle."""
    row = (await connection.execute(sa.select(*_CYCLE).where(t.cycles.c.id == cycle_id))).one_or_none()
    return None if row is None else _cycle(row)


async def list_cycles(connection: AsyncConnection, limit: int) -> list[CycleOut]:
    """The latest cycles, newest first."""
    query = sa.select(*_CYCLE).order_by(t.cycles.c.id.desc()).limit(limit)
    return [_cycle(row) for row in await connection.execute(query)]


async def load_status(connection: AsyncConnection) -> SystemStatus:
    """What the system is doing, and what it waits for. `environments` are the latest cycle's."""
    current = await _newest_cycle(connection, _OPEN)
    last_completed = await _newest_cycle(connection, (CycleStatus.COMPLETED,))
    ledger = (await connection.execute(sa.select(t.ledgers.c.genesis, t.ledgers.c.netuid))).one_or_none()
    unserved = await unserved_environments(connection)
    return SystemStatus(
        current_cycle=current,
        last_completed_cycle=last_completed,
        total_cycles=await connection.scalar(sa.select(sa.func.count()).select_from(t.cycles)) or 0,
        total_miners_evaluated=await _count_evaluated_hotkeys(connection),
        environments=await _latest_environments(connection),
        is_evaluating=current is not None and current.status is CycleStatus.RUNNING,
        reasons=[*(await load_notices(connection)).values(), *await _waits_for_executors(connection, unserved)],
        unserved_environments=unserved,
        quarantined=await quarantines(connection),
        audits=await audit_counts(connection),
        scheduler_running=await scheduler_runs(connection),
        netuid=None if ledger is None else ledger.netuid,
        genesis=None if ledger is None else ledger.genesis,
    )


async def load_notices(connection: AsyncConnection) -> dict[str, str]:
    """What presently stands in the way, one sentence a topic. A paused executor's counts while it is heard of."""
    live = sa.exists().where(t.notices.c.topic == sa.literal("executor ") + t.present_executors.c.executor_id)
    query = sa.select(t.notices).where(sa.or_(t.notices.c.topic.not_like("executor %"), live))
    return {row.topic: row.text for row in await connection.execute(query.order_by(t.notices.c.topic))}


async def _waits_for_executors(connection: AsyncConnection, unserved: Sequence[str]) -> list[str]:
    """A sentence for those of these environments that have episodes to run."""
    if not unserved:
        return []
    open_tasks = sa.select(t.tasks.c.env_id).join(t.cycles, t.cycles.c.id == t.tasks.c.cycle_id).distinct()
    pending = open_tasks.where(
        t.cycles.c.status == CycleStatus.RUNNING, t.tasks.c.status == TaskStatus.PENDING, t.tasks.c.audit_id.is_(None)
    )
    waiting = set(await connection.scalars(pending))
    named = [env_id for env_id in unserved if env_id in waiting]
    return [nobody_serves(named)] if named else []


def nobody_serves(env_ids: Iterable[str]) -> str:
    """What is said of environments that no executor serves."""
    return f"An executor that serves {', '.join(env_ids)}: none has asked for work lately."


async def scheduler_runs(connection: AsyncConnection) -> bool:
    """Whether a scheduler runs on this database, leading or not."""
    return bool(await connection.scalar(_SCHEDULER))


async def audit_counts(connection: AsyncConnection) -> AuditCounts:
    """How the audits of the latest closed cycle ended; all zero before the first."""
    latest = sa.select(sa.func.max(t.cycles.c.id)).where(t.cycles.c.completed_at.is_not(None)).scalar_subquery()
    query = (
        sa.select(t.audits.c.cycle_id, t.audits.c.state, sa.func.count().label("audits"))
        .where(t.audits.c.cycle_id == latest, t.audits.c.state != AuditState.OPEN)
        .group_by(t.audits.c.cycle_id, t.audits.c.state)
    )
    rows = (await connection.execute(query)).all()
    return AuditCounts(cycle_id=rows[0].cycle_id if rows else None, **{row.state: row.audits for row in rows})


async def list_miners(connection: AsyncConnection) -> list[MinerOut]:
    """Every committed hotkey of the latest cycle, and whoever was turned away since, by uid.

    The success rate is the present submission's, in the last completed cycle that evaluated it. Until one has, a miner
    that takes part is `queued`.
    """
    away = [_turned_away(row) for row in await connection.execute(sa.select(t.turned_away))]
    uids, hotkeys = {miner.uid for miner in away}, {miner.hotkey for miner in away}
    found = [_miner(row) for row in await connection.execute(_miners())]
    kept = [miner for miner in found if miner.uid not in uids and miner.hotkey not in hotkeys]
    return sorted(kept + away, key=lambda miner: miner.uid)


async def load_miner(connection: AsyncConnection, hotkey: str) -> MinerOut | None:
    """One committed hotkey, as `list_miners` has it; None when there is no such hotkey."""
    query = sa.select(t.turned_away).where(t.turned_away.c.hotkey == hotkey)
    away = (await connection.execute(query)).one_or_none()
    if away is not None:
        return _turned_away(away)
    row = (await connection.execute(_miners().where(t.cycle_miners.c.hotkey == hotkey))).one_or_none()
    return None if row is None else _miner(row)


async def list_environments(connection: AsyncConnection) -> list[EnvironmentOut]:
    """The environments of the latest cycle, each with its evaluated episodes in the last completed cycle."""
    score, cycle = t.scores, t.cycles
    last_completed = sa.select(sa.func.max(cycle.c.id)).where(cycle.c.status == CycleStatus.COMPLETED).scalar_subquery()
    episodes = sa.func.sum(score.c.episodes_completed)
    successes = sa.func.sum(score.c.success_rate * score.c.episodes_completed)
    query = (
        sa.select(score.c.env_id, episodes.label("episodes"), (successes / sa.func.nullif(episodes, 0)).label("rate"))
        .where(score.c.cycle_id == last_completed)
        .group_by(score.c.env_id)
    )
    known = {row.env_id: row for row in await connection.execute(query)}
    return [_environment(env_id, known.get(env_id)) for env_id in await _latest_environments(connection)]


async def load_scores(connection: AsyncConnection, cycle_id: int | None = None) -> ScoresOut | None:
    """Scores of one cycle, or of the last completed one; None when that cycle has none."""
    query = sa.select(t.standings.c.cycle_id, t.standings.c.pareto_frontier).order_by(t.standings.c.cycle_id.desc())
    if cycle_id is not None:
        query = query.where(t.standings.c.cycle_id == cycle_id)
    standing = (await connection.execute(query.limit(1))).one_or_none()
    cycle = None if standing is None else await load_cycle(connection, standing.cycle_id)
    if standing is None or cycle is None:
        return None
    scores = await _scores_of(connection, cycle.id)
    summary: dict[int, dict[str, float]] = {}
    for score in scores:
        summary.setdefault(score.uid, {})[score.env_id] = score.success_rate
    return ScoresOut(cycle=cycle, scores=scores, miner_summary=summary, pareto_frontier=standing.pareto_frontier)


async def load_weights(connection: AsyncConnection, block: int | None = None) -> WeightsOut | None:
    """The latest weights, or those in force at a block: the latest published for it or for a block before it."""
    query = sa.select(t.weights).order_by(t.weights.c.block_number.desc(), t.weights.c.cycle_id.desc()).limit(1)
    if block is not None:
        query = query.where(t.weights.c.block_number <= block)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    return WeightsOut(
        cycle_id=row.cycle_id,
        block_number=row.block_number,
        timestamp=row.published_at,
        weights=row.weights,
        weights_u16=WeightsU16(uids=row.u16_uids, values=row.u16_values),
        hotkeys=row.hotkeys,
        netuid=row.netuid,
        genesis=row.genesis,
        expires_at_block=row.expires_at_block,
        metadata=row.notes,
    )


async def _newest_cycle(connection: AsyncConnection, statuses: tuple[CycleStatus, ...]) -> CycleOut | None:
    query = sa.select(*_CYCLE).where(t.cycles.c.status.in_(statuses)).order_by(t.cycles.c.id.desc()).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _cycle(row)


async def _count_evaluated_hotkeys(connection: AsyncConnection) -> int:
    evaluated = sa.exists().where(
        t.cycle_miners.c.submission_id == t.submissions.c.id,
        t.cycle_miners.c.state == MinerState.EVALUATED,
        t.cycle_miners.c.cycle_id == t.cycles.c.id,
        t.cycles.c.status == CycleStatus.COMPLETED,
    )
    query = sa.select(sa.func.count(sa.distinct(t.submissions.c.hotkey))).where(evaluated)
    return await connection.scalar(query) or 0


async def _latest_environments(connection: AsyncConnection) -> list[str]:
    query = sa.select(t.cycles.c.environments).order_by(t.cycles.c.id.desc()).limit(1)
    listed = await connection.scalar(query)
    return [item["env_id"] for item in listed or []]


async def unserved_environments(connection: AsyncConnection) -> list[str]:
    """Environments of the running cycle that no executor serves that is there. One that has paused serves none."""
    running = sa.select(t.cycles.c.environments).where(t.cycles.c.status == CycleStatus.RUNNING)
    wanted = [item["env_id"] for item in await connection.scalar(running) or []]
    live = sa.select(t.present_executors.c.env_ids)
    served = list(await connection.scalars(live))
    return [env_id for env_id in wanted if not any(env_ids is None or env_id in env_ids for env_ids in served)]


async def _scores_of(connection: AsyncConnection, cycle_id: int) -> list[ScoreOut]:
    score = t.scores
    query = sa.select(score).where(score.c.cycle_id == cycle_id).order_by(score.c.uid, score.c.env_id)
    return [ScoreOut(**row) for row in (await connection.execute(query)).mappings()]


def _cycle(row: sa.Row[Any]) -> CycleOut:  # Any: a row's columns are not typed
    ended = row.completed_at
    return CycleOut(
        id=row.id,
        block_number=row.block_number,
        started_at=row.started_at,
        completed_at=ended,
        status=CycleStatus(row.status),
        n_miners=row.n_miners,
        n_environments=row.n_environments,
        duration_seconds=None if ended is None else (ended - row.started_at).total_seconds(),
        salt_sha256=row.salt_sha256,
        target_block=row.target_block,
        failure_reason=row.failure_reason,
    )


def _miners() -> sa.Select[Any]:  # Any: columns of several tables
    """The latest cycle's miners, each with its submission's latest result."""
    miner, cycle = t.cycle_miners, t.cycles
    latest = sa.select(sa.func.max(cycle.c.id)).scalar_subquery()
    evaluated = _last_evaluation().lateral("evaluation")
    result = (
        sa.select(sa.func.avg(t.scores.c.success_rate).label("rate"), sa.func.count().label("environments"))
        .where(t.scores.c.cycle_id == evaluated.c.cycle_id, t.scores.c.uid == evaluated.c.uid)
        .lateral("result")
    )
    return (
        sa.select(
            miner,
            cycle.c.status.label("cycle_status"),
            cycle.c.failure_reason.label("cycle_failure"),
            evaluated.c.block_number.label("evaluated_block"),
            result.c.rate,
            result.c.environments,
            sa.exists()
            .where(
                t.unsteady_policies.c.repo_key == sa.func.lower(miner.c.repo),
                t.unsteady_policies.c.revision == miner.c.revision,
            )
            .label("is_unsteady"),
        )
        .join(cycle, cycle.c.id == miner.c.cycle_id)
        .outerjoin(evaluated, sa.true())
        .outerjoin(result, sa.true())
        .where(miner.c.cycle_id == latest)
    )


def _last_evaluation() -> sa.Select[Any]:  # Any: columns of several tables
    """The last completed cycle that evaluated the submission of the row outside."""
    earlier, cycle = t.cycle_miners.alias("earlier"), t.cycles.alias("earlier_cycle")
    return (
        sa.select(earlier.c.cycle_id, earlier.c.uid, cycle.c.block_number)
        .join(cycle, cycle.c.id == earlier.c.cycle_id)
        .where(
            earlier.c.submission_id == t.cycle_miners.c.submission_id,
            earlier.c.state == MinerState.EVALUATED,
            cycle.c.status == CycleStatus.COMPLETED,
        )
        .order_by(earlier.c.cycle_id.desc())
        .limit(1)
        .correlate(t.cycle_miners)
    )


def _miner(row: sa.Row[Any]) -> MinerOut:  # Any: a row's columns are not typed
    state, reason = MinerState(row.state), row.reason
    if state is MinerState.EVALUATED and row.evaluated_block is None:
        state, reason = MinerState.QUEUED, _why_queued(row.cycle_id, CycleStatus(row.cycle_status), row.cycle_failure)
    return MinerOut(
        uid=row.uid,
        hotkey=row.hotkey,
        last_evaluated_block=row.evaluated_block,
        avg_success_rate=row.rate,
        environments_evaluated=row.environments or 0,
        state=state,
        reason=reason,
        repo=row.repo,
        revision=row.revision,
        place=row.place,
        is_unsteady=row.is_unsteady,
    )


def _turned_away(row: sa.Row[Any]) -> MinerOut:  # Any: a row's columns are not typed
    return MinerOut(
        uid=row.uid,
        hotkey=row.hotkey,
        last_evaluated_block=None,
        avg_success_rate=None,
        environments_evaluated=0,
        state=MinerState(row.state),
        reason=row.reason,
        repo=row.repo,
        revision=row.revision,
    )


def _why_queued(cycle_id: int, status: CycleStatus, failure: str | None) -> str:
    if status is CycleStatus.FAILED:
        return f"cycle {cycle_id} failed ({failure}); the next one evaluates it again"
    return f"its first results come when cycle {cycle_id} ends"


def _environment(env_id: str, evaluated: sa.Row[Any] | None) -> EnvironmentOut:  # Any: a row's columns are not typed
    env_name, _, task_name = env_id.partition("/")
    return EnvironmentOut(
        env_id=env_id,
        env_name=env_name,
        task_name=task_name,
        n_evaluations=0 if evaluated is None else evaluated.episodes,
        avg_success_rate=None if evaluated is None else evaluated.rate,
    )

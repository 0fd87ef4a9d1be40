"""What the scheduler writes: sightings, plans, closings. Each function works inside the caller's transaction.

The caller's connection holds the scheduler's advisory lock, so nobody else writes these rows meanwhile.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.errors import ConfigurationError
from kinitro.schemas import RuleOut
from kinitro.storage import tables as t
from kinitro.storage.database import Database
from kinitro.types import CycleStatus, MinerState, PolicyRef

LEADER_LOCK = 0x6B696E69  # "kini"
"""The advisory lock that the leading scheduler holds."""
PRESENCE_LOCK = 0x6B696E70  # "kinp"
"""The advisory lock that every scheduler shares while it runs, also one that stands by or waits for the chain."""


@dataclass(frozen=True)
class MinerEntry:
    """One committed hotkey of a cycle, evaluated or not. `ref` is None when its text is not readable."""

    uid: int
    hotkey: str
    ref: PolicyRef | None
    committed_block: int
    submission_id: int | None
    place: int | None
    state: MinerState
    reason: str | None = None


@dataclass(frozen=True)
class CyclePlan:
    """Everything a cycle is judged by, frozen when it is planned. `environments` maps id to version, in order."""

    block_number: int
    netuid: int
    genesis: str
    salt: bytes
    salt_sha256: str
    target_block: int
    episodes_per_env: int
    environments: Mapping[str, str]
    rule: RuleOut
    miner_time_budget_s: float
    timeout_s: float
    task_max_attempts: int
    miners: tuple[MinerEntry, ...]


@dataclass(frozen=True)
class OpenCycle:
    """The cycle that is pending or running, as a scheduler resumes it."""

    id: int
    status: CycleStatus
    plan: CyclePlan
    active_s: float


@dataclass(frozen=True)
class ScoreRow:
    """One miner's result in one environment of a cycle."""

    uid: int
    hotkey: str
    env_id: str
    success_rate: float
    mean_reward: float
    episodes_completed: int
    episodes_failed: int
    wilson_low: float
    wilson_high: float


@dataclass(frozen=True)
class PublishedWeights:
    """Weights as validators fetch them."""

    block_number: int
    expires_at_block: int
    weights: Mapping[int, float]
    u16_uids: Sequence[int]
    u16_values: Sequence[int]
    hotkeys: Mapping[int, str]
    notes: Mapping[str, Any]  # Any: free-form JSON for people


@dataclass(frozen=True)
class Closing:
    """What a completed cycle comes to. `bits` maps (uid, env_id) to (evaluated, success) bit sets; `withheld` says why
    there are no weights.
    """

    scores: Sequence[ScoreRow]
    pareto_frontier: Sequence[int]
    prizes: Mapping[str, int | None]
    points: Mapping[int, int]
    bits: Mapping[tuple[int, str], tuple[bytes, bytes]]
    copies: Mapping[int, str]
    weights: PublishedWeights | None
    withheld: str = "no miner has points and no burn uid is set (KINITRO_SCHEDULER_BURN_UID)"


@asynccontextmanager
async def try_leadership(database: Database) -> AsyncIterator[AsyncConnection | None]:
    """Yields the connection that holds the scheduler's lock, or None when another scheduler has it.

    The lock lives as long as the connection: writing through it proves that we still lead.
    """
    async with database.connect() as connection:
        locked = bool(await connection.scalar(sa.select(sa.func.pg_try_advisory_lock(LEADER_LOCK))))
        await connection.commit()
        try:
            yield connection if locked else None
        finally:
            # Closing the session gives the lock back, whatever state the connection is in.
            await connection.invalidate()


@asynccontextmanager
async def presence(database: Database) -> AsyncIterator[None]:
    """Lets others see that a scheduler runs on this database, whether or not it leads."""
    async with database.connect() as connection:
        await connection.execute(sa.select(sa.func.pg_advisory_lock_shared(PRESENCE_LOCK)))
        await connection.commit()
        try:
            yield
        finally:
            await connection.invalidate()


async def claim_ledger(connection: AsyncConnection, genesis: str, netuid: int) -> None:
    """Ties the database to one subnet of one chain; refuses another's, unless nothing of it was stored yet."""
    mine = {"genesis": genesis, "netuid": netuid}
    is_empty = sa.not_(sa.or_(sa.exists(sa.select(t.submissions.c.id)), sa.exists(sa.select(t.cycles.c.id))))
    claim = insert(t.ledgers).values(mine)
    await connection.execute(claim.on_conflict_do_update(index_elements=["singleton"], set_=mine, where=is_empty))
    await check_ledger(connection, genesis, netuid)


async def check_ledger(connection: AsyncConnection, genesis: str, netuid: int) -> None:
    """Refuses a database that is tied to another subnet."""
    row = (await connection.execute(sa.select(t.ledgers.c.genesis, t.ledgers.c.netuid))).one_or_none()
    if row is not None and (row.genesis, row.netuid) != (genesis, netuid):
        raise ConfigurationError(
            f"This database is of netuid {row.netuid} on the chain with genesis {row.genesis}, not of netuid {netuid} "
            f"on {genesis}.",
            advice="Use another database (--database-url), or wipe this one with `kinitro db reset --force`.",
        )


async def insert_plan(connection: AsyncConnection, plan: CyclePlan) -> int:
    """Stores a plan as a pending cycle and returns its id."""
    statement = sa.insert(t.cycles).values(
        status=CycleStatus.PENDING,
        block_number=plan.block_number,
        netuid=plan.netuid,
        genesis=plan.genesis,
        salt=plan.salt,
        salt_sha256=plan.salt_sha256,
        target_block=plan.target_block,
        episodes_per_env=plan.episodes_per_env,
        environments=[{"env_id": env_id, "version": version} for env_id, version in plan.environments.items()],
        rule=plan.rule.model_dump(mode="json"),
        miner_time_budget_s=plan.miner_time_budget_s,
        timeout_s=plan.timeout_s,
        task_max_attempts=plan.task_max_attempts,
        n_miners=sum(miner.state is MinerState.EVALUATED for miner in plan.miners),
    )
    cycle_id = (await connection.execute(statement.returning(t.cycles.c.id))).scalar_one()
    await connection.execute(
        sa.insert(t.cycle_miners),
        [
            {
                "cycle_id": cycle_id,
                "uid": miner.uid,
                "hotkey": miner.hotkey,
                "submission_id": miner.submission_id,
                "repo": miner.ref.repo if miner.ref else None,
                "revision": miner.ref.revision if miner.ref else None,
                "committed_block": miner.committed_block,
                "place": miner.place,
                "state": miner.state,
                "reason": miner.reason,
            }
            for miner in plan.miners
        ],
    )
    return int(cycle_id)


async def open_cycle(connection: AsyncConnection) -> OpenCycle | None:
    """The pending or running cycle, if there is one."""
    query = sa.select(t.cycles).where(t.cycles.c.status.in_([CycleStatus.PENDING, CycleStatus.RUNNING]))
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    plan = CyclePlan(
        block_number=row.block_number,
        netuid=row.netuid,
        genesis=row.genesis,
        salt=row.salt,
        salt_sha256=row.salt_sha256,
        target_block=row.target_block,
        episodes_per_env=row.episodes_per_env,
        environments={item["env_id"]: item["version"] for item in row.environments},
        rule=RuleOut.model_validate(row.rule),
        miner_time_budget_s=row.miner_time_budget_s,
        timeout_s=row.timeout_s,
        task_max_attempts=row.task_max_attempts,
        miners=await _miners_of(connection, row.id),
    )
    return OpenCycle(row.id, CycleStatus(row.status), plan, row.active_s)


async def _miners_of(connection: AsyncConnection, cycle_id: int) -> tuple[MinerEntry, ...]:
    query = sa.select(t.cycle_miners).where(t.cycle_miners.c.cycle_id == cycle_id).order_by(t.cycle_miners.c.uid)
    return tuple(
        MinerEntry(
            uid=row.uid,
            hotkey=row.hotkey,
            ref=PolicyRef(row.repo, row.revision) if row.repo is not None else None,
            committed_block=row.committed_block,
            submission_id=row.submission_id,
            place=row.place,
            state=MinerState(row.state),
            reason=row.reason,
        )
        for row in await connection.execute(query)
    )


async def mark_running(connection: AsyncConnection, cycle_id: int, block_hash: str) -> None:
    """Opens a pending cycle's tasks to executors."""
    await connection.execute(
        sa.update(t.cycles)
        .where(t.cycles.c.id == cycle_id, t.cycles.c.status == CycleStatus.PENDING)
        .values(status=CycleStatus.RUNNING, block_hash=block_hash)
    )


async def add_active_time(connection: AsyncConnection, cycle_id: int, seconds: float) -> float:
    """Adds time during which a scheduler was up, and returns the sum."""
    statement = (
        sa.update(t.cycles)
        .where(t.cycles.c.id == cycle_id)
        .values(active_s=t.cycles.c.active_s + seconds)
        .returning(t.cycles.c.active_s)
    )
    return float((await connection.execute(statement)).scalar_one())


async def lock_running(connection: AsyncConnection, cycle_id: int) -> bool:
    """Locks the cycle's row against submits; False when it is not running any more."""
    query = sa.select(t.cycles.c.status).where(t.cycles.c.id == cycle_id).with_for_update()
    return bool((await connection.execute(query)).scalar_one() == CycleStatus.RUNNING)


async def fail_cycle(connection: AsyncConnection, cycle_id: int, reason: str) -> None:
    """Closes a cycle that can't be scored. It publishes no weights."""
    await _close(connection, cycle_id, CycleStatus.FAILED, reason)
    await set_notice(connection, "weights", f"Cycle {cycle_id} failed and published no weights: {reason}")


async def _close(connection: AsyncConnection, cycle_id: int, status: CycleStatus, reason: str | None = None) -> None:
    await connection.execute(
        sa.update(t.cycles)
        .where(t.cycles.c.id == cycle_id, t.cycles.c.completed_at.is_(None))
        .values(status=status, completed_at=t.NOW, failure_reason=reason)
    )


async def complete_cycle(connection: AsyncConnection, cycle: OpenCycle, closing: Closing) -> None:
    """Writes scores, evidence and weights and closes the cycle: all of it or nothing."""
    await _mark_copies(connection, cycle.id, closing.copies)
    await replace_bits(connection, cycle.id, closing.bits)
    await _insert(connection, t.scores, ({"cycle_id": cycle.id, **_columns(row)} for row in closing.scores))
    await connection.execute(
        sa.insert(t.standings).values(
            cycle_id=cycle.id,
            pareto_frontier=list(closing.pareto_frontier),
            prizes=dict(closing.prizes),
            points={str(uid): points for uid, points in closing.points.items()},
        )
    )
    await _publish(connection, cycle, closing)
    await _close(connection, cycle.id, CycleStatus.COMPLETED)


async def completed_cycles(connection: AsyncConnection) -> list[int]:
    """Ids of the completed cycles, oldest first."""
    query = sa.select(t.cycles.c.id).where(t.cycles.c.status == CycleStatus.COMPLETED).order_by(t.cycles.c.id)
    return list(await connection.scalars(query))


async def replace_bits(
    connection: AsyncConnection, cycle_id: int, bits: Mapping[tuple[int, str], tuple[bytes, bytes]]
) -> int:
    """Writes a cycle's packed outcomes over what was there; returns how many rows that changes.

    `bits` maps (uid, env_id) to the (evaluated, success) bit sets.
    """
    query = sa.select(t.cycles.c.environments, t.cycles.c.episodes_per_env).where(t.cycles.c.id == cycle_id)
    cycle = (await connection.execute(query)).one()
    version_of = {item["env_id"]: item["version"] for item in cycle.environments}
    submission_of = {miner.uid: miner.submission_id for miner in await _miners_of(connection, cycle_id)}
    fresh = {
        (submission_of[uid], env_id, version_of[env_id], cycle.episodes_per_env, evaluated, success)
        for (uid, env_id), (evaluated, success) in bits.items()
    }
    gone = sa.delete(t.outcome_bits).where(t.outcome_bits.c.cycle_id == cycle_id)
    names = ("submission_id", "env_id", "env_version", "episodes", "evaluated", "success")
    before = {
        tuple(row) for row in await connection.execute(gone.returning(*(t.outcome_bits.c[name] for name in names)))
    }
    rows = ({"cycle_id": cycle_id, **dict(zip(names, values, strict=True))} for values in fresh)
    await _insert(connection, t.outcome_bits, rows)
    return len({row[:2] for row in fresh ^ before})


def _columns(row: ScoreRow) -> dict[str, int | float | str]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


async def _insert(connection: AsyncConnection, table: sa.Table, rows: Iterable[Mapping[str, Any]]) -> None:
    # Any: column values of any table.
    listed = list(rows)
    if listed:
        await connection.execute(sa.insert(table), listed)


async def _mark_copies(connection: AsyncConnection, cycle_id: int, copies: Mapping[int, str]) -> None:
    for uid, reason in copies.items():
        await connection.execute(
            sa.update(t.cycle_miners)
            .where(t.cycle_miners.c.cycle_id == cycle_id, t.cycle_miners.c.uid == uid)
            .values(state=MinerState.COPY, reason=reason, place=None)
        )


async def _publish(connection: AsyncConnection, cycle: OpenCycle, closing: Closing) -> None:
    published = closing.weights
    if published is None:
        await set_notice(connection, "weights", f"Cycle {cycle.id} published no weights: {closing.withheld}.")
        return
    await connection.execute(
        sa.insert(t.weights).values(
            cycle_id=cycle.id,
            block_number=published.block_number,
            weights={str(uid): weight for uid, weight in published.weights.items()},
            u16_uids=list(published.u16_uids),
            u16_values=list(published.u16_values),
            hotkeys={str(uid): hotkey for uid, hotkey in published.hotkeys.items()},
            netuid=cycle.plan.netuid,
            genesis=cycle.plan.genesis,
            expires_at_block=published.expires_at_block,
            notes=dict(published.notes),
        )
    )
    await set_notice(connection, "weights", None)


async def seconds_since_last_start(connection: AsyncConnection) -> float | None:
    """Age of the latest cycle by the database's clock; None before the first."""
    query = sa.select(sa.func.extract("epoch", t.NOW - sa.func.max(t.cycles.c.started_at)))
    age: Any = await connection.scalar(query)  # Any: a driver's numeric
    return None if age is None else float(age)


async def set_notice(connection: AsyncConnection, topic: str, text: str | None) -> None:
    """Says (or stops saying, with None) one thing an operator should know, in `/v1/status`."""
    if text is None:
        await connection.execute(sa.delete(t.notices).where(t.notices.c.topic == topic))
        return
    statement = insert(t.notices).values(topic=topic, text=text)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["topic"],
            set_={"text": text, "since": t.NOW},
            where=t.notices.c.text != text,
        )
    )

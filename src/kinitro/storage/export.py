"""A cycle as `kinitro score` reads it: the input of the scheduler's own scoring and the published file (section 8)."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.errors import KinitroError
from kinitro.schemas import CycleExport, EpisodeOut, ExportEpisode, ExportHistory, ExportMiner, RuleOut
from kinitro.storage import tables as t
from kinitro.storage.records import NAME_DIGITS, load_conditions, load_record
from kinitro.types import CycleStatus, ErrorKind, TaskStatus

_EPISODES = TypeAdapter(list[ExportEpisode])
_EPISODES_AT_ONCE = 2000


async def load_export(connection: AsyncConnection, cycle_id: int) -> CycleExport:
    """Everything a cycle is judged by, at its present state; `KinitroError` when there is no such cycle.

    An open cycle is given too, salt and seeds included: whoever shows an export to the public must see that its
    cycle is closed. 115,200 episodes take a few seconds.
    """
    row = (await connection.execute(sa.select(t.cycles).where(t.cycles.c.id == cycle_id))).one_or_none()
    if row is None:
        raise KinitroError(f"There is no cycle {cycle_id}.", advice="List them with `kinitro db status`.")
    versions = {item["env_id"]: item["version"] for item in row.environments}
    return CycleExport(
        format=1,
        cycle_id=cycle_id,
        status=CycleStatus(row.status),
        block_number=row.block_number,
        target_block=row.target_block,
        block_hash=row.block_hash,
        salt=row.salt.hex(),
        salt_sha256=row.salt_sha256,
        netuid=row.netuid,
        genesis=row.genesis,
        episodes_per_env=row.episodes_per_env,
        rule=RuleOut.model_validate(row.rule),
        environments=list(versions),
        miners=await _load_miners(connection, cycle_id),
        episodes=await _load_episodes(connection, cycle_id),
        history=await _load_history(connection, cycle_id, versions),
        environment_versions=versions,
        failure_reason=row.failure_reason,
        conditions=await load_conditions(connection, cycle_id),
    )


async def load_episode(connection: AsyncConnection, task_id: UUID) -> EpisodeOut | None:
    """One episode with its record, at its present state; None when there is no such task.

    A run of an audit gives the episode that it checked: nobody is to find out which tasks are such runs by asking.

    An open cycle's is given too, seeds included: whoever shows it to the public must see that its cycle is closed.
    """
    facts = sa.select(t.tasks.c.cycle_id, t.tasks.c.hotkey, t.tasks.c.repo, t.tasks.c.revision, t.cycles.c.netuid).join(
        t.cycles, t.cycles.c.id == t.tasks.c.cycle_id
    )
    checked = sa.func.coalesce(t.audits.c.task_id, t.tasks.c.id)
    whose = sa.select(checked).outerjoin(t.audits, t.audits.c.id == t.tasks.c.audit_id).where(t.tasks.c.id == task_id)
    task_id = await connection.scalar(whose)
    row = (await connection.execute(facts.where(t.tasks.c.id == task_id))).one_or_none()
    if row is None:
        return None
    episode = (await connection.execute(_episodes_query().where(t.tasks.c.id == task_id))).mappings().one()
    return EpisodeOut(
        **row._asdict(),
        episode=ExportEpisode.model_validate(dict(episode)),
        record=await load_record(connection, task_id),
    )


async def _load_miners(connection: AsyncConnection, cycle_id: int) -> list[ExportMiner]:
    query = sa.select(t.cycle_miners).where(t.cycle_miners.c.cycle_id == cycle_id).order_by(t.cycle_miners.c.uid)
    return [
        ExportMiner(
            uid=row.uid,
            hotkey=row.hotkey,
            repo=row.repo or "",
            revision=row.revision or "",
            committed_block=row.committed_block,
            place=row.place,
            state=row.state,
            reason=row.reason,
        )
        for row in await connection.execute(query)
    ]


async def _load_episodes(connection: AsyncConnection, cycle_id: int) -> list[ExportEpisode]:
    episodes: list[ExportEpisode] = []
    result = await connection.stream(_episodes_query().where(t.tasks.c.cycle_id == cycle_id))
    fields = tuple(result.keys())
    # In parts, so that an API that exports a big cycle still answers heartbeats.
    async for part in result.partitions(_EPISODES_AT_ONCE):
        episodes += _EPISODES.validate_python([dict(zip(fields, row, strict=True)) for row in part])
    return episodes


def _episodes_query() -> sa.Select[Any]:  # Any: columns of three tables
    """Each episode with its verdict; one that failed has the last infrastructure fault instead."""
    task, verdict, record = t.tasks, t.verdicts, t.records
    failed = task.c.status == TaskStatus.FAILED
    return (
        sa.select(
            task.c.uid,
            task.c.env_id,
            task.c.episode_index.label("index"),
            task.c.seed,
            task.c.policy_seed,
            task.c.id.label("task_uuid"),
            verdict.c.success,
            verdict.c.score,
            verdict.c.total_reward,
            verdict.c.timesteps,
            sa.func.coalesce(verdict.c.error, sa.case((failed, task.c.last_error))).label("error"),
            sa.func.coalesce(verdict.c.error_kind, sa.case((failed, ErrorKind.INFRASTRUCTURE))).label("error_kind"),
            verdict.c.trace_digest,
            verdict.c.tree_digest,
            verdict.c.image_digest,
            verdict.c.executor_id,
            verdict.c.policy_seconds,
            sa.func.left(sa.func.encode(record.c.conditions, "hex"), NAME_DIGITS).label("conditions"),
            record.c.error_code,
        )
        .outerjoin(verdict, verdict.c.task_id == task.c.id)
        .outerjoin(record, record.c.task_id == task.c.id)
        .where(task.c.audit_id.is_(None))
        .order_by(task.c.uid, task.c.env_id, task.c.episode_index)
    )


async def _load_history(connection: AsyncConnection, cycle_id: int, versions: Mapping[str, str]) -> list[ExportHistory]:
    """Earlier completed cycles' outcomes of this cycle's submissions under this cycle's environment versions."""
    grouped: dict[tuple[int, str], ExportHistory] = {}
    for row in await connection.execute(_history_query(cycle_id, versions)):
        key = (row.cycle_id, row.env_id)
        entry = grouped.get(key)
        if entry is None:
            entry = grouped[key] = ExportHistory(
                cycle_id=row.cycle_id, env_id=row.env_id, episodes=row.episodes, evaluated={}, success={}
            )
        entry.evaluated[row.uid] = row.evaluated.hex()
        entry.success[row.uid] = row.success.hex()
    return list(grouped.values())


def _history_query(cycle_id: int, versions: Mapping[str, str]) -> sa.Select[Any]:  # Any: columns of several tables
    bits, miner, cycle = t.outcome_bits, t.cycle_miners, t.cycles
    same_version = sa.tuple_(bits.c.env_id, bits.c.env_version).in_(list(versions.items()))
    return (
        sa.select(bits, miner.c.uid)
        .join(miner, (miner.c.submission_id == bits.c.submission_id) & (miner.c.cycle_id == cycle_id))
        .join(cycle, cycle.c.id == bits.c.cycle_id)
        .where(cycle.c.id < cycle_id, cycle.c.status == CycleStatus.COMPLETED, same_version)
        .order_by(bits.c.cycle_id, bits.c.env_id, miner.c.uid)
    )

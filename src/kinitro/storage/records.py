"""Episodes' records: what they ran under, kept once for all that share it, and what happened in each."""

import base64
import hashlib
import json
from collections.abc import Iterable
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.schemas import EpisodeConditions, EpisodeRecord, ResultIn
from kinitro.storage import tables as t

NAME_DIGITS = 16
"""Of a digest, in an export: enough to tell apart what one cycle's episodes ran under."""


def conditions_digest(conditions: EpisodeConditions) -> bytes:
    """SHA-256 of its JSON with sorted keys."""
    return hashlib.sha256(_json(conditions).encode()).digest()


async def add_conditions(connection: AsyncConnection, results: Iterable[ResultIn]) -> None:
    """Notes the conditions that these results name, before their records are written.

    In one order, so that two batches which bring the same new ones wait for each other, and not in a circle.
    """
    found = {
        conditions_digest(result.record.conditions): result.record.conditions for result in results if result.record
    }
    rows = [{"digest": digest.hex(), "document": _json(found[digest])} for digest in sorted(found)]
    if rows:
        await connection.execute(_ADD_CONDITIONS, {"rows": json.dumps(rows)})


async def add_records(connection: AsyncConnection, results: Iterable[ResultIn]) -> None:
    """Writes the records of results whose verdicts have just been written."""
    rows = [_record_row(result.task_uuid, result.record) for result in results if result.record]
    if rows:
        await connection.execute(_ADD_RECORDS, {"rows": json.dumps(rows)})


async def load_record(connection: AsyncConnection, task_id: UUID) -> EpisodeRecord | None:
    """One episode's record, steps included; None when none was kept."""
    query = (
        sa.select(t.records, t.conditions.c.document)
        .join(t.conditions, t.conditions.c.digest == t.records.c.conditions)
        .where(t.records.c.task_id == task_id)
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    return EpisodeRecord(
        conditions=row.document,
        error_code=row.error_code,
        facts=row.facts,
        steps=None if row.steps is None else base64.b64encode(row.steps).decode(),
        steps_url=row.steps_url,
        steps_sha256=row.steps_sha256,
    )


async def load_conditions(connection: AsyncConnection, cycle_id: int) -> dict[str, EpisodeConditions]:
    """Everything that a cycle's episodes ran under, by the names that its exported episodes use."""
    mine = sa.select(t.records.c.conditions).where(t.records.c.cycle_id == cycle_id)
    query = sa.select(t.conditions).where(t.conditions.c.digest.in_(mine))
    return {
        row.digest.hex()[:NAME_DIGITS]: EpisodeConditions.model_validate(row.document)
        for row in await connection.execute(query)
    }


async def forget_steps(connection: AsyncConnection, kept_cycles: int) -> int:
    """Drops the steps of all but the latest cycles, and returns how many; a replay then compares digests alone."""
    result = await connection.execute(_FORGET_STEPS, {"kept": kept_cycles})
    return len(result.all())


def _json(conditions: EpisodeConditions) -> str:
    return json.dumps(conditions.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def _record_row(task_id: UUID, record: EpisodeRecord) -> dict[str, object]:
    return {
        "task_id": str(task_id),
        "conditions": conditions_digest(record.conditions).hex(),
        "error_code": record.error_code,
        "facts": record.facts,
        "steps": record.steps,
        "steps_url": record.steps_url,
        "steps_sha256": record.steps_sha256,
    }


_ADD_CONDITIONS = sa.text("""
    insert into conditions (digest, document)
    select decode(r.digest, 'hex'), cast(r.document as jsonb)
    from json_to_recordset(cast(:rows as json)) as r(digest text, document text)
    where not exists (select 1 from conditions c where c.digest = decode(r.digest, 'hex'))
    order by r.digest
    on conflict do nothing
""")

_ADD_RECORDS = sa.text("""
    insert into records (task_id, cycle_id, conditions, error_code, facts, steps, steps_url, steps_sha256)
    select r.task_id, v.cycle_id, decode(r.conditions, 'hex'), r.error_code, r.facts, decode(r.steps, 'base64'),
           r.steps_url, r.steps_sha256
    from json_to_recordset(cast(:rows as json)) as r(
        task_id uuid, conditions text, error_code text, facts jsonb, steps text, steps_url text, steps_sha256 text)
    join verdicts v on v.task_id = r.task_id
""")

_FORGET_STEPS = sa.text("""
    update records set steps = null
    where steps is not null and cycle_id <= (select max(id) from cycles) - :kept
    returning task_id
""")

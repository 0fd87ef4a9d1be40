"""Taking in results: which are taken, by rules that need no database, and how they are written down.

Everything happens under locks on the cycle's row and on the tasks' rows, so that what was judged is still so when it
is written.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.schemas import Refusal, ResultIn, SubmitResponse
from kinitro.storage import records
from kinitro.storage.task_life import AVOID_S, RETRY_DELAY_CAP_S, RETRY_DELAY_S, close_over_budget
from kinitro.types import CycleStatus, ErrorKind, TaskStatus

Reason = Literal["lost", "conflict", "unknown"]


@dataclass(frozen=True, slots=True)
class TaskState:
    """What decides whether a result of a task is taken. `started`: the latest lease was; once it ended, it counted."""

    id: UUID
    cycle_id: int
    cycle_status: CycleStatus
    max_attempts: int
    uid: int
    status: TaskStatus
    lease_token: UUID | None
    executor_id: str | None
    attempts: int
    started: bool


@dataclass(slots=True)
class Decisions:
    """What becomes of one batch. `faults` pairs an infrastructure fault with its task as it is afterwards."""

    accepted: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    verdicts: list[ResultIn] = field(default_factory=list)
    faults: list[tuple[ResultIn, TaskState]] = field(default_factory=list)
    uids: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Miners, by cycle, whose tasks changed."""


def decide(
    executor_id: str,
    results: Sequence[ResultIn],
    tasks: Mapping[UUID, TaskState],
    reported: Mapping[tuple[UUID, UUID], bytes],
) -> Decisions:
    """Judges results in their order. `reported`: content digests by task and lease token, of what was taken before."""
    decisions, tasks, reported = Decisions(), dict(tasks), dict(reported)
    for result in results:
        key = (result.task_uuid, result.lease_token)
        task = tasks.get(result.task_uuid)
        refusal = _refusal(executor_id, result, task, reported.get(key))
        if refusal is not None or task is None:
            decisions.refusals.append(Refusal(task_uuid=result.task_uuid, reason=refusal or "unknown"))
            continue
        decisions.accepted += 1
        if key not in reported:
            reported[key] = content_digest(result)
            tasks[task.id] = _take(result, task, decisions)
    return decisions


def _refusal(executor_id: str, result: ResultIn, task: TaskState | None, reported: bytes | None) -> Reason | None:
    if task is None:
        return "unknown"
    if reported is not None:
        return None if reported == content_digest(result) else "conflict"
    is_holder = result.lease_token == task.lease_token and executor_id == task.executor_id
    is_open = task.status != TaskStatus.COMPLETED and task.cycle_status == CycleStatus.RUNNING
    return None if is_holder and is_open else "lost"


def _take(result: ResultIn, task: TaskState, decisions: Decisions) -> TaskState:
    decisions.uids[task.cycle_id].add(task.uid)
    if result.error_kind is not ErrorKind.INFRASTRUCTURE:
        decisions.verdicts.append(result)
        return replace(task, status=TaskStatus.COMPLETED)
    # A lease that ran out after its start was counted then.
    was_counted = task.started and task.status != TaskStatus.ASSIGNED
    attempts = task.attempts + (0 if was_counted else 1)
    gives_up = attempts >= task.max_attempts or task.status == TaskStatus.FAILED
    status = TaskStatus.FAILED if gives_up else TaskStatus.PENDING
    after = replace(task, attempts=attempts, started=True, status=status)
    decisions.faults.append((result, after))
    return after


def content_digest(result: ResultIn) -> bytes:
    """sha256 of all a result says, without its task and lease."""
    content = result.model_dump(mode="json", exclude={"task_uuid", "lease_token"})
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).digest()


async def take(connection: AsyncConnection, executor_id: str, results: Sequence[ResultIn]) -> SubmitResponse:
    """Judges and writes one batch inside the caller's transaction."""
    tasks = await _lock_tasks(connection, {result.task_uuid for result in results})
    # Only now: a report that was committed while we waited for the locks must be seen.
    reported = await _reported(connection, {result.lease_token for result in results})
    decisions = decide(executor_id, results, tasks, reported)
    if decisions.verdicts:
        await records.add_conditions(connection, decisions.verdicts)
        rows = [_verdict_row(result) for result in decisions.verdicts]
        await connection.execute(_WRITE_VERDICTS, {"executor": executor_id, "rows": json.dumps(rows)})
        await records.add_records(connection, decisions.verdicts)
    if decisions.faults:
        rows = [_fault_row(result, task) for result, task in decisions.faults]
        await connection.execute(_WRITE_FAULTS, {"executor": executor_id, "rows": json.dumps(rows), **_AVOID})
    for cycle_id, uids in decisions.uids.items():
        await close_over_budget(connection, cycle_id, uids)
    return SubmitResponse(accepted=decisions.accepted, rejected=len(decisions.refusals), errors=decisions.refusals)


async def _lock_tasks(connection: AsyncConnection, ids: set[UUID]) -> dict[UUID, TaskState]:
    cycles = {row.id: row for row in await connection.execute(_LOCK_CYCLES, {"ids": list(ids)})}
    rows = await connection.execute(_LOCK_TASKS, {"ids": list(ids)}) if cycles else ()
    return {row.id: _task_state(row, cycles[row.cycle_id]) for row in rows}


def _task_state(row: Row[Any], cycle: Row[Any]) -> TaskState:  # Any: raw SQL has no column types
    return TaskState(
        id=row.id,
        cycle_id=row.cycle_id,
        cycle_status=CycleStatus(cycle.status),
        max_attempts=cycle.task_max_attempts,
        uid=row.uid,
        status=TaskStatus(row.status),
        lease_token=row.lease_token,
        executor_id=row.executor_id,
        attempts=row.attempts,
        started=row.started,
    )


async def _reported(connection: AsyncConnection, tokens: set[UUID]) -> dict[tuple[UUID, UUID], bytes]:
    rows = await connection.execute(_REPORTED, {"tokens": list(tokens)})
    return {(row.task_id, row.lease_token): row.content_sha256 for row in rows}


def _report_row(result: ResultIn) -> dict[str, object]:
    return {
        "task_id": str(result.task_uuid),
        "lease_token": str(result.lease_token),
        "content": content_digest(result).hex(),
        "error": result.error,
    }


def _verdict_row(result: ResultIn) -> dict[str, object]:
    is_error = result.error is not None or result.error_kind is not None
    return {
        **_report_row(result),
        "success": result.success,
        "score": result.score,
        "total_reward": result.total_reward,
        "timesteps": result.timesteps,
        # What is not shown to be our fault is the policy's.
        "error_kind": ErrorKind.POLICY if is_error else None,
        "trace_digest": result.trace_digest,
        "tree_digest": result.tree_digest,
        "image_digest": result.image_digest,
        "policy_seconds": result.policy_seconds,
        "conditions": records.conditions_digest(result.record.conditions).hex() if result.record else None,
    }


def _fault_row(result: ResultIn, task: TaskState) -> dict[str, object]:
    delay_s = min(RETRY_DELAY_S * 2.0 ** min(task.attempts - 1, 30), RETRY_DELAY_CAP_S)
    return {**_report_row(result), "status": task.status, "attempts": task.attempts, "delay_s": delay_s}


_AVOID = {"avoid_s": AVOID_S}

# Share: a cycle does not close while results of it are being written.
_LOCK_CYCLES = text("""
    select c.id, c.status, c.task_max_attempts from cycles c
    where c.id in (select cycle_id from tasks where id = any(cast(:ids as uuid[])))
    order by c.id for share of c
""")

_LOCK_TASKS = text("""
    select id, cycle_id, uid, status, lease_token, executor_id, attempts, started from tasks
    where id = any(cast(:ids as uuid[])) order by id for update
""")

_REPORTED = text("""
    select task_id, lease_token, content_sha256 from reports where lease_token = any(cast(:tokens as uuid[]))
""")

# Claims in order: two batches that bring the same ones wait for each other, and not in a circle.
_WRITE_VERDICTS = text("""
    with r as materialized (
        select * from json_to_recordset(cast(:rows as json)) as r(
            task_id uuid, lease_token uuid, content text, error text, success bool, score float8, total_reward float8,
            timesteps int, error_kind text, trace_digest text, tree_digest text, image_digest text,
            policy_seconds float8, conditions text)
    ),
    report as (
        insert into reports (lease_token, task_id, executor_id, content_sha256, error_kind, error)
        select lease_token, task_id, :executor, decode(content, 'hex'), error_kind, error from r
    ),
    verdict as (
        insert into verdicts (task_id, cycle_id, uid, env_id, episode_index, success, score, total_reward, timesteps,
                              error, error_kind, trace_digest, tree_digest, image_digest, policy_seconds, executor_id)
        select t.id, t.cycle_id, t.uid, t.env_id, t.episode_index, r.success, r.score, r.total_reward, r.timesteps,
               r.error, r.error_kind, r.trace_digest, r.tree_digest, r.image_digest, r.policy_seconds, :executor
        from r join tasks t on t.id = r.task_id where t.audit_id is null
    ),
    audit_run as (
        insert into audit_runs (task_id, audit_id, executor_id, success, total_reward, timesteps, error, trace_digest,
                                tree_digest, image_digest, conditions)
        select t.id, t.audit_id, :executor, r.success, r.total_reward, r.timesteps,
               case when r.error_kind is not null then coalesce(r.error, 'policy') end,
               r.trace_digest, r.tree_digest, r.image_digest, decode(r.conditions, 'hex')
        from r join tasks t on t.id = r.task_id where t.audit_id is not null
    ),
    claim as (
        insert into file_claims (cycle_id, uid, executor_id, tree_digest, hotkey, repo_key, revision)
        select distinct t.cycle_id, t.uid, cast(:executor as text), r.tree_digest, t.hotkey, lower(t.repo), t.revision
        from r join tasks t on t.id = r.task_id where r.tree_digest is not null
        order by 1, 2, 3, 4
        on conflict do nothing
    )
    update tasks t set status = 'completed', started = true from r where t.id = r.task_id
""")

_WRITE_FAULTS = text("""
    with r as materialized (
        select * from json_to_recordset(cast(:rows as json)) as r(
            task_id uuid, lease_token uuid, content text, error text, status text, attempts int, delay_s float8)
    ),
    report as (
        insert into reports (lease_token, task_id, executor_id, content_sha256, error_kind, error)
        select lease_token, task_id, :executor, decode(content, 'hex'), 'infrastructure', error from r
    ),
    clock as materialized (select clock_timestamp() as at)
    update tasks t set
        status = r.status, attempts = r.attempts, started = true, last_error = r.error,
        not_before = clock.at + make_interval(secs => r.delay_s),
        avoid_executor = :executor,
        avoid_until = clock.at + make_interval(secs => r.delay_s + cast(:avoid_s as float8))
    from r, clock where t.id = r.task_id
""")

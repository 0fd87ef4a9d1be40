from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from kinitro.schemas import ResultIn
from kinitro.storage.results import TaskState, content_digest, decide
from kinitro.types import CycleStatus, ErrorKind, TaskStatus

TASK, TOKEN, OLD_TOKEN = UUID(int=1), UUID(int=2), UUID(int=3)


def task(**changes) -> TaskState:
    leased = TaskState(
        id=TASK,
        cycle_id=7,
        cycle_status=CycleStatus.RUNNING,
        max_attempts=3,
        uid=5,
        status=TaskStatus.ASSIGNED,
        lease_token=TOKEN,
        executor_id="one",
        attempts=0,
        started=True,
    )
    return replace(leased, **changes)


def result(token: UUID = TOKEN, **changes) -> ResultIn:
    content = {"success": True, "score": 1.0, "total_reward": 1.0, "timesteps": 1} | changes
    return ResultIn(task_uuid=TASK, lease_token=token, **content)


def fault() -> ResultIn:
    return result(success=False, score=0.0, error="disk full", error_kind=ErrorKind.INFRASTRUCTURE)


def reason(state: TaskState, given: ResultIn, executor_id: str = "one") -> str | None:
    refusals = decide(executor_id, [given], {TASK: state}, {}).refusals
    return refusals[0].reason if refusals else None


@pytest.mark.parametrize("status", [TaskStatus.ASSIGNED, TaskStatus.PENDING, TaskStatus.FAILED])
def test_the_latest_lease_may_report_until_someone_else_has_the_task(status: TaskStatus) -> None:
    assert reason(task(status=status), result()) is None


@pytest.mark.parametrize(
    ("state", "given", "executor_id"),
    [
        (task(), result(OLD_TOKEN), "one"),
        (task(), result(), "two"),
        (task(status=TaskStatus.COMPLETED), result(), "one"),
        (task(cycle_status=CycleStatus.FAILED), result(), "one"),
    ],
    ids=["an older lease", "another executor", "a verdict without a report", "a closed cycle"],
)
def test_whoever_has_no_claim_any_more_is_told_that_it_lost(
    state: TaskState, given: ResultIn, executor_id: str
) -> None:
    assert reason(state, given, executor_id) == "lost"


def test_what_was_reported_once_may_be_repeated_even_after_the_cycle_closed() -> None:
    closed = task(status=TaskStatus.COMPLETED, cycle_status=CycleStatus.COMPLETED)
    decisions = decide("one", [result()], {TASK: closed}, {(TASK, TOKEN): content_digest(result())})
    assert (decisions.accepted, decisions.verdicts, decisions.faults) == (1, [], [])


def test_a_batch_is_judged_in_its_order() -> None:
    decisions = decide("one", [result(), result(), result(timesteps=2), result(OLD_TOKEN)], {TASK: task()}, {})
    assert decisions.accepted == 2
    assert len(decisions.verdicts) == 1
    assert [refusal.reason for refusal in decisions.refusals] == ["conflict", "lost"]


def test_a_task_nobody_knows_is_unknown() -> None:
    stray = result().model_copy(update={"task_uuid": uuid4()})
    assert [refusal.reason for refusal in decide("one", [stray], {TASK: task()}, {}).refusals] == ["unknown"]


@pytest.mark.parametrize(
    ("state", "attempts", "status"),
    [
        (task(), 1, TaskStatus.PENDING),
        (task(attempts=2), 3, TaskStatus.FAILED),
        (task(status=TaskStatus.PENDING, attempts=1), 1, TaskStatus.PENDING),
        (task(status=TaskStatus.PENDING, started=False), 1, TaskStatus.PENDING),
        (task(status=TaskStatus.FAILED, attempts=3), 3, TaskStatus.FAILED),
    ],
    ids=["in time", "the last attempt", "late and counted already", "late and never counted", "given up already"],
)
def test_a_fault_counts_each_attempt_once(state: TaskState, attempts: int, status: TaskStatus) -> None:
    ((_, after),) = decide("one", [fault()], {TASK: state}, {}).faults
    assert (after.attempts, after.status) == (attempts, status)


def test_the_digest_covers_what_was_measured_and_not_the_lease() -> None:
    assert content_digest(result()) == content_digest(result(OLD_TOKEN))
    assert content_digest(result()) != content_digest(result(trace_digest="sha256:0"))

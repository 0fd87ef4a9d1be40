from datetime import UTC, datetime
from uuid import uuid4

from kinitro.executor.leases import Leases
from kinitro.schemas import TaskOut
from kinitro.types import TaskStatus


def leased(task_uuid) -> TaskOut:
    return TaskOut(
        task_uuid=task_uuid, lease_token=uuid4(), lease_expires_at=datetime.now(UTC), cycle_id=1, miner_uid=1,
        miner_hotkey="5Hotkey", miner_repo="a/b", miner_revision="0" * 40, env_id="line/reach-v0", seed=1,
        policy_seed=1, status=TaskStatus.PENDING, created_at=datetime.now(UTC),
    )  # fmt: skip


def test_the_end_of_one_lease_leaves_a_later_one_on_the_same_task() -> None:
    """A result is taken, the task is handed out again, and only then the first lease's end is noticed."""
    leases, task_uuid = Leases(link=None), uuid4()
    leases.add([leased(task_uuid)])
    (first,) = leases.queued()
    leases.add([leased(task_uuid)])
    leases.drop(first.ref())
    (second,) = leases.queued()
    leases.drop(second.ref())
    assert list(leases.queued()) == []

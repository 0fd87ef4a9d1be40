"""Any interleaving of what executors, time and crashes do, against the rules of contracts section 3, "Task life"."""

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

EXECUTORS = ("one", "two", "three")
BUDGET_S = 25.0
MAX_ATTEMPTS = 2


@dataclass
class Lease:
    """A lease as the outside knows it. `counted`: it ended after its start, without a verdict."""

    task: Any
    holder: str
    started: bool = False
    counted: bool = False
    taken: Any = None


@dataclass
class History:
    """All leases of a task in their order, and the one verdict that was accepted."""

    leases: list[Lease] = field(default_factory=list)
    has_verdict: bool = False

    @property
    def latest(self) -> Lease:
        return self.leases[-1]


class PoolMachine(RuleBasedStateMachine):
    """`call` runs a coroutine to its end."""

    def __init__(self, kit, call) -> None:
        super().__init__()
        self.kit, self.call = kit, call
        self.history: dict[Any, History] = defaultdict(History)
        self.leases: list[Lease] = []
        call(kit.run("truncate cycles, executors, snapshots cascade"))
        call(kit.start_cycle(miners=2, episodes=2, budget_s=BUDGET_S, max_attempts=MAX_ATTEMPTS))

    # What happens

    @rule(executor=st.sampled_from(EXECUTORS), size=st.integers(1, 6))
    def fetch(self, executor: str, size: int) -> None:
        before = self.call(self.kit.rows("select *, clock_timestamp() as now from tasks"))
        spent = self.spent()
        free = {row.id for row in before if row.uid not in spent and is_free(row, executor)}
        fetched = self.call(self.kit.pool.fetch(executor, size, None)).tasks
        got = {task.task_uuid for task in fetched}
        assert len(got) == len(fetched) == min(size, len(free))
        assert got <= free
        self.note_endings()
        for task in fetched:
            lease = Lease(task, executor)
            self.history[task.task_uuid].leases.append(lease)
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), started=st.booleans(), stranger=st.booleans())
    def heartbeat(self, data, started: bool, stranger: bool) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        before = self.call(self.kit.rows("select *, clock_timestamp() as now from tasks"))
        row = next(row for row in before if row.id == lease.task.task_uuid)
        is_held = self.is_live(lease, row) and not stranger and (row.now - row.leased_at).total_seconds() < 660
        asked = [self.kit.lease(lease.task, started=started)]
        answer = self.call(self.kit.pool.heartbeat("stranger" if stranger else lease.holder, asked))
        assert (answer.extended, answer.lost) == (([row.id], []) if is_held else ([], [row.id]))
        if is_held:
            lease.started |= started

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        (row,) = self.rows_of(lease)
        is_live = self.is_live(lease, row)
        answer = self.call(self.kit.pool.release(lease.holder, [self.kit.lease(lease.task)]))
        assert answer.released == ([row.id] if is_live else [])
        self.note_endings()

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(), kind=st.sampled_from(["success", "failure", "fault"]), seconds=st.sampled_from([0.0, 1.0, 9.0])
    )
    def submit(self, data, kind: str, seconds: float) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        if kind == "fault":
            result = self.kit.fault(lease.task, policy_seconds=seconds)
        else:
            won = kind == "success"
            result = self.kit.result(lease.task, success=won, score=float(won), policy_seconds=seconds)
        self.submit_and_check(lease, result)

    @precondition(lambda self: any(lease.taken for lease in self.leases))
    @rule(data=st.data(), altered=st.booleans())
    def submit_again(self, data, altered: bool) -> None:
        lease = data.draw(st.sampled_from([lease for lease in self.leases if lease.taken]))
        self.submit_and_check(lease, lease.taken.model_copy(update={"timesteps": 77} if altered else {}))

    @rule(seconds=st.sampled_from([3, 7, 31, 61, 130, 700]))
    def time_passes(self, seconds: int) -> None:
        self.call(self.kit.pass_time(seconds))

    # What is expected

    def submit_and_check(self, lease: Lease, result) -> None:
        task_id = lease.task.task_uuid
        history = self.history[task_id]
        (row,) = self.rows_of(lease)
        if lease.taken is not None:
            expected = [] if lease.taken == result else ["conflict"]
        else:
            is_open = lease is history.latest and not history.has_verdict and row.status != "completed"
            expected = [] if is_open else ["lost"]
        answer = self.call(self.kit.pool.submit(lease.holder, [result]))
        assert [refusal.reason for refusal in answer.errors] == expected
        assert answer.accepted == 1 - len(expected)
        if not expected and lease.taken is None:
            lease.taken = result
            if result.error_kind is None:
                history.has_verdict = True
            else:
                lease.started = lease.counted = True
        self.note_endings()

    def note_endings(self) -> None:
        for row in self.call(self.kit.rows("select * from tasks")):
            for lease in self.history[row.id].leases:
                ended_without_verdict = not self.is_live(lease, row) and lease.taken is None
                lease.counted |= lease.started and ended_without_verdict

    def is_live(self, lease: Lease, row) -> bool:
        return row.status == "assigned" and row.lease_token == lease.task.lease_token

    def rows_of(self, lease: Lease) -> list[Any]:
        return self.call(self.kit.rows(f"select * from tasks where id = '{lease.task.task_uuid}'"))

    def spent(self) -> set[int]:
        seconds: dict[int, float] = defaultdict(float)
        for lease in self.leases:
            if lease.taken is not None and lease.taken.error_kind is None:
                seconds[lease.task.miner_uid] += lease.taken.policy_seconds or 0.0
        return {uid for uid, total in seconds.items() if total > BUDGET_S}

    @invariant()
    def rules_hold(self) -> None:
        spent = self.spent()
        for row in self.call(
            self.kit.rows(
                "select t.*, v.executor_id as decided_by, v.error, v.task_id from tasks t"
                " left join verdicts v on v.task_id = t.id"
            )
        ):
            history = self.history[row.id]
            assert (row.task_id is not None) == (row.status == "completed")
            assert history.has_verdict == (row.status == "completed" and row.decided_by is not None)
            if row.status == "completed" and not history.has_verdict:
                assert row.uid in spent
                assert row.error.startswith("too_slow")
            assert row.attempts == sum(lease.counted for lease in history.leases)
            assert (row.status == "failed") <= (row.attempts >= MAX_ATTEMPTS)
            assert (row.status in ("pending", "assigned")) <= (row.attempts < MAX_ATTEMPTS)
            assert not (row.status == "pending" and row.uid in spent)

    def teardown(self) -> None:
        """However it went, the cycle comes to its end."""
        for turn in range(20):
            self.call(self.kit.pass_time(1000))
            self.fetch(EXECUTORS[turn % 3], 100)
            for lease in [lease for lease in self.leases if lease is self.history[lease.task.task_uuid].latest]:
                if self.rows_of(lease)[0].status == "assigned":
                    self.submit_and_check(lease, self.kit.result(lease.task))
        self.rules_hold()
        stats = self.call(self.kit.pool.stats())
        assert stats.completed_tasks + stats.failed_tasks == stats.total_tasks == 8


def is_free(row, executor: str) -> bool:
    """Whether a fetch by this executor may lease the task, by the rules alone."""
    if row.status == "assigned":
        return row.lease_expires_at <= row.now and not row.started
    avoided = row.avoid_executor == executor and row.avoid_until > row.now
    return row.status == "pending" and row.not_before <= row.now and not avoided


async def test_any_interleaving_keeps_the_rules_of_a_tasks_life(kit) -> None:
    loop = asyncio.get_running_loop()

    def call(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    bounded = settings(
        max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    await asyncio.to_thread(run_state_machine_as_test, lambda: PoolMachine(kit, call), settings=bounded)


async def test_executors_that_race_leave_one_verdict_a_task(kit) -> None:
    await kit.start_cycle(miners=4, episodes=10, max_attempts=100)
    pool, chance = kit.pool, random.Random(0)

    async def executor(name: str) -> None:
        while tasks := (await pool.fetch(name, 7, None)).tasks:
            await pool.heartbeat(name, [kit.lease(task, started=True) for task in tasks])
            chance.shuffle(tasks)
            given_back = [task for task in tasks if chance.random() < 0.3]
            kept = [task for task in tasks if task not in given_back]
            await asyncio.gather(
                pool.submit(name, [kit.result(task) for task in kept]),
                pool.submit(name, [kit.result(task) for task in reversed(kept)]),
                pool.release(name, [kit.lease(task) for task in given_back]),
                pool.heartbeat(name, [kit.lease(task) for task in tasks]),
            )

    await asyncio.gather(*(executor(f"executor{n}") for n in range(6)))
    assert len(await kit.rows("select 1 from verdicts")) == 80
    assert (await kit.pool.stats()).completed_tasks == 80

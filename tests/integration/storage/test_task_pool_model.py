"""Any interleaving of what executors, time, crashes and audits do, against contracts section 3, "Task life".

Results are random, so that executors contradict each other all the time and are kept from miners, or from everything.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from kinitro.errors import ExecutorQuarantined
from kinitro.storage import lock_cycle, lock_executors, pardon, quarantine

EXECUTORS = ("one", "two", "three")
DRAWN = range(6)
BUDGET_S = 25.0
MAX_ATTEMPTS = 2


@dataclass
class Lease:
    """A lease as the outside knows it. `counted`: it ended after its start, without a verdict.

    `cut`: it was taken away, with its verdict if it had one, when its executor was kept from the miner or its audit
    ended.
    """

    task: Any
    holder: str
    started: bool = False
    counted: bool = False
    cut: bool = False
    taken: Any = None

    @property
    def has_verdict(self) -> bool:
        return self.taken is not None and self.taken.error_kind is None


@dataclass
class History:
    """All leases of a task in their order, and whether a verdict was accepted, or given for the budget's sake."""

    leases: list[Lease] = field(default_factory=list)
    has_verdict: bool = False
    too_slow: bool = False

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
        self.audit_ids: set[Any] = set()
        call(kit.run("truncate cycles, executors cascade"))
        started = kit.start_cycle(miners=2, episodes=2, budget_s=BUDGET_S, max_attempts=MAX_ATTEMPTS, drawn=DRAWN)
        self.cycle_id = call(started)

    # What happens

    @rule(executor=st.sampled_from(EXECUTORS), size=st.integers(1, 6))
    def fetch(self, executor: str, size: int) -> None:
        before = self.tasks()
        spent = self.spent()
        kept_from = self.kept_from(executor)
        if None in kept_from:
            with pytest.raises(ExecutorQuarantined):
                self.call(self.kit.pool.fetch(executor, size, None))
            return
        free = {
            row.id
            for row in before
            if (row.audit_id is not None or row.uid not in spent)
            and is_free(row, executor)
            and row.hotkey not in kept_from
        }
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
        before = self.tasks()
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

    @rule(executor=st.sampled_from(EXECUTORS), data=st.data(), seconds=st.sampled_from([0.0, 4.0]))
    def run_whatever_comes(self, executor: str, data, seconds: float) -> None:
        self.fetch(executor, 6)
        self.submit_what_is_held(lambda: data.draw(st.booleans()), seconds)
        self.audit()

    @rule(seconds=st.sampled_from([3, 7, 31, 61, 130, 700]))
    def time_passes(self, seconds: int) -> None:
        self.call(self.kit.pass_time(seconds))

    @rule()
    def audit(self) -> None:
        """One step of the scheduler's loop."""
        before = self.in_force()
        self.call(self.kit.audit(self.cycle_id))
        for executor, hotkey in self.in_force() - before:
            self.cut(executor, hotkey)
        self.note_closed()

    @precondition(lambda self: any(lease.has_verdict for lease in self.leases))
    @rule(executor=st.sampled_from(EXECUTORS), hotkey=st.sampled_from([None, "hotkey0"]))
    def keep_from(self, executor: str, hotkey: str | None) -> None:
        async def act() -> int | None:
            async with self.kit.database.begin() as connection:
                await lock_cycle(connection, self.cycle_id)
                await lock_executors(connection, [executor])
                return await quarantine(connection, self.cycle_id, executor, hotkey, "tested")

        was_so = (executor, hotkey) in self.in_force()
        done = self.call(act())
        assert (done is None) == was_so
        if not was_so:
            self.cut(executor, hotkey)

    @precondition(lambda self: self.in_force())
    @rule(executor=st.sampled_from(EXECUTORS))
    def pardon(self, executor: str) -> None:
        async def act() -> None:
            async with self.kit.database.begin() as connection:
                await pardon(connection, executor)

        self.call(act())

    # What is expected

    def in_force(self) -> set[tuple[str, str | None]]:
        rows = self.call(self.kit.rows("select executor_id, hotkey from quarantines where lifted_at is null"))
        return {(row.executor_id, row.hotkey) for row in rows}

    def kept_from(self, executor: str) -> set[str | None]:
        """Hotkeys of which this executor gets nothing, None for all: those that somebody else may have."""
        in_force = self.in_force()
        present = self.call(self.kit.rows("select executor_id from present_executors"))
        others = {row.executor_id for row in present} - {executor}
        mine = {hotkey for who, hotkey in in_force if who == executor}
        return {
            hotkey
            for hotkey in mine
            if hotkey is None or any({(other, None), (other, hotkey)}.isdisjoint(in_force) for other in others)
        }

    def cut(self, executor: str, hotkey: str | None) -> None:
        """What is run again begins anew, and what the executor held is not its own any more."""
        mine = [
            history
            for history in self.episodes()
            if history.latest.holder == executor and hotkey in (None, history.latest.task.miner_hotkey)
        ]
        uids = {history.latest.task.miner_uid for history in mine if history.has_verdict}
        unspent = [history for history in self.episodes() if history.too_slow and history.latest.task.miner_uid in uids]
        for history in (*(one for one in mine if not one.too_slow), *unspent):
            attempts = sum(lease.counted for lease in history.leases)
            if history.has_verdict or history.too_slow or attempts == MAX_ATTEMPTS:
                for lease in history.leases:
                    lease.counted = False
            history.latest.cut = True
            history.has_verdict = history.too_slow = False
        self.note_closed()

    def episodes(self) -> list[History]:
        return [one for task_id, one in self.history.items() if one.leases and task_id not in self.audit_ids]

    def note_closed(self) -> None:
        """Which tasks were closed over their miner's budget, and which runs of audits were ended."""
        for row in self.tasks():
            self.note_row(row)

    def note_row(self, row) -> None:
        history = self.history[row.id]
        history.too_slow = row.task_id is not None and row.decided_by is None
        if row.audit_id is not None:
            self.audit_ids.add(row.id)
            for lease in history.leases:
                lease.cut |= row.lease_token is None and not lease.has_verdict

    def tasks(self) -> list[Any]:
        """Every task, with its verdict if it has one."""
        return self.call(
            self.kit.rows(
                "select t.*, v.task_id, v.executor_id as decided_by, v.error, clock_timestamp() as now from tasks t"
                " left join verdicts v on v.task_id = t.id"
            )
        )

    def submit_what_is_held(self, wins: Callable[[], bool] = lambda: True, seconds: float = 0.0) -> None:
        rows = {row.id: row for row in self.tasks()}
        for lease in [lease for lease in self.leases if self.is_live(lease, rows[lease.task.task_uuid])]:
            won = wins()
            result = self.kit.result(lease.task, success=won, score=float(won), policy_seconds=seconds)
            self.submit_and_check(lease, result)

    def submit_and_check(self, lease: Lease, result) -> None:
        task_id = lease.task.task_uuid
        history = self.history[task_id]
        (row,) = self.rows_of(lease)
        if lease.taken is not None:
            expected = [] if lease.taken == result else ["conflict"]
        else:
            is_open = (
                lease is history.latest and not lease.cut and not history.has_verdict and row.status != "completed"
            )
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
        for row in self.tasks():
            self.note_row(row)
            for lease in self.history[row.id].leases:
                ended_without_verdict = not self.is_live(lease, row) and lease.taken is None and not lease.cut
                lease.counted |= lease.started and ended_without_verdict

    def is_live(self, lease: Lease, row) -> bool:
        return row.status == "assigned" and row.lease_token == lease.task.lease_token

    def rows_of(self, lease: Lease) -> list[Any]:
        return self.call(self.kit.rows(f"select * from tasks where id = '{lease.task.task_uuid}'"))

    def spent(self) -> set[int]:
        seconds: dict[int, float] = defaultdict(float)
        for lease in self.leases:
            if lease.has_verdict and not lease.cut and lease.task.task_uuid not in self.audit_ids:
                seconds[lease.task.miner_uid] += lease.taken.policy_seconds or 0.0
        return {uid for uid, total in seconds.items() if total > BUDGET_S}

    @invariant()
    def rules_hold(self) -> None:
        spent = self.spent()
        for row in self.tasks():
            history = self.history[row.id]
            assert row.attempts == sum(lease.counted for lease in history.leases)
            if row.audit_id is not None:
                assert row.task_id is None
                assert history.has_verdict == (row.status == "completed")
                continue
            assert (row.task_id is not None) == (row.status == "completed")
            assert history.has_verdict == (row.status == "completed" and row.decided_by is not None)
            if row.status == "completed" and not history.has_verdict:
                assert row.uid in spent
                assert row.error.startswith("too_slow")
            assert (row.status == "failed") <= (row.attempts >= MAX_ATTEMPTS)
            assert (row.status in ("pending", "assigned")) <= (row.attempts < MAX_ATTEMPTS)
            assert not (row.status == "pending" and row.uid in spent)

    @invariant()
    def audits_are_for_others_and_never_counted(self) -> None:
        wrong = "select 1 from tasks t join audits a on a.id = t.audit_id"
        wrong += " where t.only_executor is null and a.executor_id <> all(t.barred)"
        assert self.call(self.kit.rows(wrong)) == []
        assert self.call(self.kit.pool.stats()).total_tasks == 8

    def teardown(self) -> None:
        """However it went, the cycle comes to its end."""
        for executor in EXECUTORS:
            self.pardon(executor)
        for turn in range(40):
            self.call(self.kit.pass_time(1000))
            self.fetch(EXECUTORS[turn % 3], 100)
            self.submit_what_is_held()
            self.audit()
            if not any(row.status in ("pending", "assigned") for row in self.tasks()):
                break
        self.rules_hold()
        stats = self.call(self.kit.pool.stats())
        assert stats.completed_tasks + stats.failed_tasks == stats.total_tasks == 8


def is_free(row, executor: str) -> bool:
    """Whether a fetch by this executor may lease the task, by the rules alone."""
    if executor in (row.barred or ()) or row.only_executor not in (None, executor):
        return False
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

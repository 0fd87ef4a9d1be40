import asyncio
from collections import Counter
from datetime import timedelta
from uuid import uuid4

import pytest

from kinitro.schemas import Refusal
from kinitro.storage import FileClaim, file_claims, forget_claims, latest_claims
from kinitro.storage.task_pool import (
    CycleProgress,
    close_over_budget,
    create_tasks,
    fail_remaining,
    progress,
)

# Leasing


async def test_tasks_are_handed_out_in_order_with_everything_an_executor_needs(kit) -> None:
    cycle_id = await kit.start_cycle(miners=2, episodes=1)
    fetched = await kit.pool.fetch("one", 3, None)
    assert [(t.miner_uid, t.env_id) for t in fetched.tasks] == [
        (0, "metaworld/reach-v3"),
        (0, "metaworld/push-v3"),
        (1, "metaworld/reach-v3"),
    ]
    assert fetched.total_pending == 1
    first = fetched.tasks[0]
    assert (first.cycle_id, first.miner_repo, first.seed, first.policy_seed) == (cycle_id, "User0/Repo", 1, 2)
    assert first.lease_expires_at - first.created_at < timedelta(seconds=70)


async def test_a_batch_is_spread_over_miners_so_that_no_single_policy_holds_up_an_executor(kit) -> None:
    await kit.start_cycle(miners=4, environments=["a/b"], episodes=40)
    tasks = (await kit.pool.fetch("one", 10, None)).tasks
    assert sorted(Counter(task.miner_uid for task in tasks).values()) == [2, 2, 3, 3]
    assert [task.seed for task in tasks] == [1] * 10


async def test_eight_slots_with_one_place_a_policy_are_all_busy_from_batches_of_ten(kit) -> None:
    await kit.start_cycle(miners=20, environments=["a/b"], episodes=40)
    running, queued, peaks = {}, [], []
    for _ in range(30):
        if len(queued) <= 5:
            queued += (await kit.pool.fetch("one", 10 - len(queued), None)).tasks
        for task in list(queued):
            if len(running) < 8 and task.miner_uid not in running:
                running[task.miner_uid] = task
                queued.remove(task)
        peaks.append(len(running))
        done = running.pop(next(iter(running)))
        await kit.pool.submit("one", [kit.result(done)])
    assert min(peaks[3:]) >= 7
    assert max(peaks) == 8


async def test_the_same_few_miners_are_handed_out_until_they_are_done(kit) -> None:
    await kit.start_cycle(miners=50, environments=["a/b"], episodes=20)
    seen: set[int] = set()
    for _ in range(10):
        tasks = (await kit.pool.fetch("one", 10, None)).tasks
        seen |= {task.miner_uid for task in tasks}
        await kit.pool.submit("one", [kit.result(task) for task in tasks])
    assert seen == set(range(5))


async def test_one_miners_tasks_fill_a_batch_when_nobody_elses_are_left(kit) -> None:
    await kit.start_cycle(miners=1, environments=["a/b"], episodes=40)
    fetched = await kit.pool.fetch("one", 30, None)
    assert (len(fetched.tasks), fetched.total_pending) == (30, 10)
    assert len((await kit.pool.fetch("two", 30, None)).tasks) == 10


async def test_only_the_environments_an_executor_serves_are_leased_to_it(kit) -> None:
    await kit.start_cycle(miners=1, episodes=2)
    fetched = await kit.pool.fetch("one", 100, ["metaworld/push-v3"])
    assert {t.env_id for t in fetched.tasks} == {"metaworld/push-v3"}
    assert len(fetched.tasks) == 2
    assert (await kit.pool.fetch("two", 100, [])).tasks == []


async def test_without_a_running_cycle_there_is_nothing_to_fetch(kit) -> None:
    assert (await kit.pool.fetch("one", 10, None)).tasks == []
    await kit.start_cycle()
    await kit.run("update cycles set status = 'failed'")
    assert (await kit.pool.fetch("one", 10, None)).tasks == []


async def test_many_fetchers_at_once_get_different_tasks_and_leave_none(kit) -> None:
    await kit.start_cycle(miners=10, episodes=10)
    pool = kit.pool
    batches = await asyncio.gather(*(pool.fetch(f"executor{n}", 13, None) for n in range(16)))
    got = [task.task_uuid for batch in batches for task in batch.tasks]
    rest = await pool.fetch("last", 100, None)
    got += [task.task_uuid for task in rest.tasks]
    assert len(got) == len(set(got)) == 200


async def test_a_heartbeat_renews_a_lease_and_a_stranger_can_not(kit) -> None:
    await kit.start_cycle()
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    await kit.pass_time(40)
    assert (await kit.pool.heartbeat("two", [kit.lease(task)])).lost == [task.task_uuid]
    assert (await kit.pool.heartbeat("one", [kit.lease(task)])).extended == [task.task_uuid]
    await kit.pass_time(40)
    assert len((await kit.pool.fetch("two", 100, None)).tasks) == 7


async def test_a_hung_executor_that_keeps_renewing_loses_the_task_at_the_cap(kit) -> None:
    await kit.start_cycle(miners=1, environments=["a/b"], episodes=1)
    (task,) = (await kit.pool.fetch("hung", 1, None)).tasks
    for _ in range(22):
        assert (await kit.pool.heartbeat("hung", [kit.lease(task, started=True)])).extended == [task.task_uuid]
        await kit.pass_time(30)
    assert (await kit.pool.heartbeat("hung", [kit.lease(task)])).lost == [task.task_uuid]
    await kit.pool.fetch("other", 1, None)
    await kit.pass_time(6)
    (again,) = (await kit.pool.fetch("other", 1, None)).tasks
    assert again.task_uuid == task.task_uuid
    assert again.lease_token != task.lease_token


# Attempts


async def test_a_lease_lost_before_its_start_counts_no_attempt_and_is_free_at_once(kit) -> None:
    await kit.start_cycle(miners=1, environments=["a/b"], episodes=1)
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    await kit.pass_time(61)
    assert len((await kit.pool.fetch("one", 1, None)).tasks) == 1
    assert (await kit.task(task)).attempts == 0


async def test_a_lease_lost_after_its_start_waits_then_prefers_another_executor(kit) -> None:
    await kit.start_cycle(miners=1, environments=["a/b"], episodes=1)
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    await kit.start("one", task)
    await kit.pass_time(61)
    assert (await kit.pool.fetch("two", 1, None)).tasks == []
    await kit.pass_time(5.5)
    assert (await kit.pool.fetch("one", 1, None)).tasks == []
    assert (await kit.task(task)).attempts == 1
    assert len((await kit.pool.fetch("two", 1, None)).tasks) == 1


async def test_an_executor_that_is_alone_gets_its_lost_task_again_in_the_end(kit) -> None:
    await kit.start_cycle(miners=1, environments=["a/b"], episodes=1)
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    assert (await kit.pool.submit("one", [kit.fault(task)])).accepted == 1
    await kit.pass_time(64)
    assert (await kit.pool.fetch("one", 1, None)).tasks == []
    await kit.pass_time(2)
    assert len((await kit.pool.fetch("one", 1, None)).tasks) == 1


async def test_after_the_last_attempt_a_task_has_failed_with_its_reason(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=["a/b"], episodes=1, max_attempts=2)
    for _ in range(2):
        (task,) = (await kit.pool.fetch("one", 1, None)).tasks
        await kit.pool.submit("one", [kit.fault(task, error="no more room")])
        await kit.pass_time(1000)
    assert (await kit.pool.fetch("one", 1, None)).tasks == []
    assert ((await kit.task(task)).status, (await kit.task(task)).last_error) == ("failed", "no more room")
    assert (await kit.pool.stats(cycle_id)).failed_tasks == 1


async def test_released_unstarted_tasks_are_free_at_once_and_started_ones_count(kit) -> None:
    await kit.start_cycle(miners=2, environments=["a/b"], episodes=1)
    first, second = (await kit.pool.fetch("one", 2, None)).tasks
    await kit.start("one", second)
    released = await kit.pool.release("one", [kit.lease(first), kit.lease(second)])
    assert released.released == [first.task_uuid, second.task_uuid]
    assert (await kit.pool.release("one", [kit.lease(first)])).lost == [first.task_uuid]
    assert len((await kit.pool.fetch("one", 2, None)).tasks) == 2
    assert [(await kit.task(first)).attempts, (await kit.task(second)).attempts] == [0, 1]


# Results


async def test_the_same_result_twice_is_accepted_twice_and_counted_once(kit) -> None:
    await kit.start_cycle()
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    result = kit.result(task)
    answers = await asyncio.gather(*(kit.pool.submit("one", [result, result]) for _ in range(8)))
    assert [answer.accepted for answer in answers] == [2] * 8
    assert len(await kit.rows("select 1 from verdicts")) == 1
    assert (await kit.pool.stats()).completed_tasks == 1


async def test_other_content_under_the_same_lease_is_a_conflict(kit) -> None:
    await kit.start_cycle()
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    await kit.pool.submit("one", [kit.result(task)])
    answer = await kit.pool.submit("one", [kit.result(task, total_reward=9.0)])
    assert answer.errors == [Refusal(task_uuid=task.task_uuid, reason="conflict")]
    assert [row.total_reward for row in await kit.rows("select total_reward from verdicts")] == [1.5]


async def test_a_late_result_is_taken_unless_the_task_was_leased_again(kit) -> None:
    await kit.start_cycle(miners=2, environments=["a/b"], episodes=1)
    late, lost = (await kit.pool.fetch("one", 2, None)).tasks
    await kit.pass_time(61)
    assert (await kit.pool.submit("one", [kit.result(late)])).accepted == 1
    await kit.pool.fetch("two", 1, None)
    answer = await kit.pool.submit("one", [kit.result(lost)])
    assert answer.errors == [Refusal(task_uuid=lost.task_uuid, reason="lost")]


async def test_a_late_result_saves_a_task_that_was_given_up(kit) -> None:
    await kit.start_cycle(miners=1, environments=["a/b"], episodes=1, max_attempts=1)
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    await kit.start("one", task)
    await kit.pass_time(61)
    await kit.pool.fetch("two", 1, None)
    assert (await kit.pool.stats()).failed_tasks == 1
    assert (await kit.pool.submit("one", [kit.result(task)])).accepted == 1
    assert (await kit.pool.stats()).completed_tasks == 1


async def test_a_late_fault_does_not_count_the_same_attempt_twice(kit) -> None:
    await kit.start_cycle(miners=1, environments=["a/b"], episodes=1)
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    await kit.start("one", task)
    await kit.pass_time(61)
    await kit.pool.fetch("two", 1, None)
    assert (await kit.pool.submit("one", [kit.fault(task)])).accepted == 1
    assert (await kit.task(task)).attempts == 1


async def test_results_of_strangers_and_of_unknown_tasks_are_refused_by_name(kit) -> None:
    await kit.start_cycle()
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    nowhere = kit.result(task).model_copy(update={"task_uuid": uuid4()})
    answer = await kit.pool.submit("two", [kit.result(task), nowhere])
    assert [refusal.reason for refusal in answer.errors] == ["lost", "unknown"]


async def test_nothing_is_taken_after_the_cycle_closed(kit) -> None:
    cycle_id = await kit.start_cycle()
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    async with kit.database.begin() as connection:
        assert await fail_remaining(connection, cycle_id, "timed out") == 8
    await kit.run("update cycles set status = 'failed'")
    answer = await kit.pool.submit("one", [kit.result(task)])
    assert answer.errors == [Refusal(task_uuid=task.task_uuid, reason="lost")]
    assert (await kit.pool.heartbeat("one", [kit.lease(task)])).lost == [task.task_uuid]


async def test_an_error_without_a_kind_is_the_policys(kit) -> None:
    await kit.start_cycle()
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    await kit.pool.submit("one", [kit.result(task, success=False, score=0.0, error="it fell over")])
    (verdict,) = await kit.rows("select success, score, error, error_kind from verdicts")
    assert tuple(verdict) == (False, 0.0, "it fell over", "policy")


async def test_every_different_word_on_a_policys_files_is_kept_once(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=["a/b"], episodes=4)
    digests = {"one": ["sha256:1", "sha256:2"], "two": ["sha256:1", "sha256:1"]}
    for executor, said in digests.items():
        tasks = (await kit.pool.fetch(executor, 2, None)).tasks
        for task, digest in zip(tasks, said, strict=True):
            await kit.pool.submit(executor, [kit.result(task, tree_digest=digest)])
    expected = [FileClaim(0, "one", "sha256:1"), FileClaim(0, "one", "sha256:2"), FileClaim(0, "two", "sha256:1")]
    async with kit.database.connect() as connection:
        assert sorted(await file_claims(connection, cycle_id)) == expected
        assert {key: sorted(said) for key, said in (await latest_claims(connection)).items()} == {
            ("user0/repo", "a" * 40): expected
        }


async def test_of_each_policy_the_claims_of_its_last_cycle_are_kept(kit) -> None:
    for number, miners in enumerate((2, 1)):
        await kit.start_cycle(miners=miners, environments=["a/b"], episodes=1)
        for task in (await kit.pool.fetch("one", 9, None)).tasks:
            await kit.pool.submit("one", [kit.result(task, tree_digest=f"sha256:{number}")])
        await kit.run("update cycles set status = 'completed', completed_at = clock_timestamp()")
    async with kit.database.begin() as connection:
        await forget_claims(connection)
        latest = await latest_claims(connection)
    assert [(said.uid, said.tree_digest) for claims in latest.values() for said in claims] == [
        (0, "sha256:1"),
        (1, "sha256:0"),
    ]
    assert len(await kit.rows("select 1 from file_claims")) == 2


# Time budget


async def test_a_miner_whose_time_is_spent_is_too_slow_for_all_that_remains(kit) -> None:
    await kit.start_cycle(miners=2, environments=["a/b"], episodes=4, budget_s=10)
    tasks = (await kit.pool.fetch("one", 4, None)).tasks
    slow = [task for task in tasks if task.miner_uid == 0]
    await kit.pool.submit("one", [kit.result(slow[0], policy_seconds=10.5)])
    verdicts = await kit.rows("select uid, success, error from verdicts where executor_id is null")
    assert [(row.uid, row.success) for row in verdicts] == [(0, False)] * 2
    assert verdicts[0].error.startswith("too_slow")
    await kit.pool.release("one", [kit.lease(slow[1])])
    assert {task.miner_uid for task in (await kit.pool.fetch("two", 100, None)).tasks} == {1}


async def test_a_miner_within_its_time_goes_on(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=["a/b"], episodes=2, budget_s=10)
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    await kit.pool.submit("one", [kit.result(task, policy_seconds=10.0)])
    async with kit.database.begin() as connection:
        assert await close_over_budget(connection, cycle_id) == 0
    assert len((await kit.pool.fetch("one", 10, None)).tasks) == 1


# Counting


async def test_stats_tell_counts_and_who_is_there(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=["a/b"], episodes=3)
    first, _ = (await kit.pool.fetch("one", 2, None)).tasks
    await kit.pool.submit("one", [kit.result(first)])
    stats = await kit.pool.stats()
    assert (stats.total_tasks, stats.pending_tasks, stats.assigned_tasks, stats.completed_tasks) == (3, 1, 1, 1)
    assert (stats.active_executors, stats.current_cycle_id) == (["one"], cycle_id)
    await kit.run("update executors set last_seen_at = last_seen_at - interval '3 minutes'")
    assert (await kit.pool.stats()).active_executors == []
    assert (await kit.pool.stats(999)).total_tasks == 0


async def test_stats_fall_back_to_the_latest_cycle_when_none_is_open(kit) -> None:
    assert (await kit.pool.stats()).total_tasks == 0
    await kit.start_cycle(miners=1, environments=["a/b"], episodes=3)
    await kit.run("update cycles set status = 'failed'")
    stats = await kit.pool.stats()
    assert (stats.total_tasks, stats.current_cycle_id) == (3, None)


async def test_making_tasks_is_all_or_nothing(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=["a/b"], episodes=1)

    async def make_and_fail() -> None:
        async with kit.database.begin() as connection:
            await create_tasks(connection, cycle_id, [])
            await fail_remaining(connection, cycle_id, "then the scheduler died")
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await make_and_fail()
    async with kit.database.connect() as connection:
        assert await progress(connection, cycle_id) == CycleProgress(1, 1, 0, 0, 0)

"""Audits in the task pool: who is handed what, what is withdrawn, and that nothing of it counts as an episode."""

import pytest

from kinitro.errors import ExecutorQuarantined
from kinitro.scheduler.auditor import Auditor
from kinitro.scheduler.files import agreed_files
from kinitro.scheduler.lifecycle import Lifecycle
from kinitro.settings import SchedulerSettings
from kinitro.storage import (
    disputes,
    executors_to_ask,
    file_claims,
    latest_claims,
    load_export,
    open_cycle,
    pardon,
    progress,
    quarantine,
    quarantines,
)
from kinitro.storage.export import load_episode
from kinitro.storage.reads import audit_counts, load_status
from kinitro.testing.records import made_up_record, made_up_steps

HIDDEN = {"task_uuid", "lease_token", "lease_expires_at"}
ONE = ["a/b"]


async def fetch(kit, executor: str, size: int = 100):
    return (await kit.pool.fetch(executor, size, None)).tasks


async def are_there(kit, *executors: str) -> None:
    """Lets executors be heard of that have leased nothing."""
    for executor in executors:
        await kit.pool.heartbeat(executor, [])


async def answer(kit, executor: str, task, success: bool = True, **more) -> None:
    result = kit.result(task, success=success, score=float(success), **more)
    assert (await kit.pool.submit(executor, [result])).accepted == 1


async def settle(kit, cycle_id: int, lies: dict[str, bool]) -> list[str]:
    """Lets every executor run whatever it gets, each with its own answer, until nothing is left; who ran what."""
    ran = []
    for _ in range(20):
        await kit.audit(cycle_id)
        for executor, success in lies.items():
            for task in await fetch(kit, executor):
                ran.append(executor)
                await answer(kit, executor, task, success)
    return ran


async def test_the_run_of_an_audit_looks_like_the_task_it_checks_and_goes_to_another_executor(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=2, drawn=[0])
    first, second = await fetch(kit, "one")
    await are_there(kit, "two")
    for task in (first, second):
        await answer(kit, "one", task)
    assert await kit.audit(cycle_id)
    assert await fetch(kit, "one") == []
    (again,) = await fetch(kit, "two")
    assert again.task_uuid != first.task_uuid
    assert again.model_dump(exclude=HIDDEN) == first.model_dump(exclude=HIDDEN)


async def test_nobody_waits_for_an_executor_that_let_a_lease_run_out_until_it_is_heard_of_again(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=2, drawn=[0])
    (first,) = await fetch(kit, "one", 1)
    assert await fetch(kit, "two", 1)
    await answer(kit, "one", first)
    assert await kit.audit(cycle_id)
    await kit.pass_time(61)
    assert len(await fetch(kit, "one")) == 1  # what two let run out
    assert not await kit.audit(cycle_id)
    await are_there(kit, "two")
    assert await kit.audit(cycle_id)


async def test_a_run_of_an_audit_is_no_episode(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=2, drawn=[0], budget_s=10)
    await are_there(kit, "two")
    for task in await fetch(kit, "one"):
        await answer(kit, "one", task, policy_seconds=1.0)
    await kit.audit(cycle_id)
    assert (await kit.pool.fetch("one", 1, None)).total_pending == 0
    (again,) = await fetch(kit, "two")
    await answer(kit, "two", again, policy_seconds=1000.0)
    await kit.audit(cycle_id)
    async with kit.database.connect() as connection:
        assert (await progress(connection, cycle_id)).total == 2
        assert len((await load_export(connection, cycle_id)).episodes) == 2
    assert (await kit.pool.stats()).completed_tasks == 2
    assert len(await kit.rows("select 1 from verdicts")) == 2
    assert [row.state for row in await kit.rows("select state from audits")] == ["agreed"]


async def test_asking_for_the_run_of_an_audit_gives_the_episode_that_it_checks(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=1, drawn=[0])
    (task,) = await fetch(kit, "one")
    await answer(kit, "one", task)
    await are_there(kit, "two")
    await kit.audit(cycle_id)
    (again,) = await fetch(kit, "two")
    async with kit.database.connect() as connection:
        found = [await load_episode(connection, one.task_uuid) for one in (task, again)]
    assert found[0] == found[1]
    assert found[0].episode.task_uuid == task.task_uuid


async def test_whom_a_third_contradicts_loses_its_verdicts_on_that_miner_and_they_are_run_by_others(kit) -> None:
    cycle_id = await kit.start_cycle(miners=2, environments=ONE, episodes=3, drawn=[0])
    await are_there(kit, "two", "three")
    for task in await fetch(kit, "liar"):
        await answer(kit, "liar", task, success=False, policy_seconds=1.0)
    await settle(kit, cycle_id, {"liar": False, "two": True, "three": True})
    verdicts = await kit.rows("select uid, success, executor_id from verdicts")
    assert {(row.uid, row.success) for row in verdicts} == {(0, True), (1, False)}
    assert "liar" not in {row.executor_id for row in verdicts if row.uid == 0}
    assert len(await kit.rows("select 1 from withdrawn_verdicts where executor_id = 'liar'")) == 3
    async with kit.database.connect() as connection:
        (entry,) = await quarantines(connection)
    assert (entry.executor_id, entry.hotkey, entry.withdrawn) == ("liar", "hotkey0", 3)
    assert "three and two contradicted it on a/b of uid 0" in entry.reason


async def test_who_audits_dishonestly_is_found_as_well_and_the_honest_verdict_stays(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=1, drawn=[0])
    (task,) = await fetch(kit, "one")
    await answer(kit, "one", task)
    await are_there(kit, "liar")
    await kit.audit(cycle_id)
    (again,) = await fetch(kit, "liar")
    await answer(kit, "liar", again, success=False)
    await settle(kit, cycle_id, {"one": True, "three": True})
    (verdict,) = await kit.rows("select success, executor_id from verdicts")
    assert tuple(verdict) == (True, "one")
    assert [row.contradicted for row in await kit.rows("select contradicted from audits")] == ["liar"]


async def test_executors_contradicted_over_many_miners_get_nothing_more_and_all_they_said_is_run_again(kit) -> None:
    cycle_id = await kit.start_cycle(miners=12, environments=ONE, episodes=2, drawn=range(0, 20, 2))
    for task in await fetch(kit, "liar"):
        await answer(kit, "liar", task, success=False, tree_digest="another's")
    await are_there(kit, "two", "three")
    await settle(kit, cycle_id, {"two": True, "three": True})
    with pytest.raises(ExecutorQuarantined, match="kinitro executors pardon liar"):
        await fetch(kit, "liar")
    verdicts = await kit.rows("select success, executor_id from verdicts")
    assert len(verdicts) == 24
    assert {(row.success, row.executor_id == "liar") for row in verdicts} == {(True, False)}
    assert await kit.rows("select 1 from file_claims where executor_id = 'liar'") == []
    async with kit.database.connect() as connection:
        status = await load_status(connection)
    assert [entry.executor_id for entry in status.quarantined if entry.hotkey is None] == ["liar"]


async def test_a_quarantined_executors_late_results_are_lost(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=2)
    done, running = await fetch(kit, "liar")
    await kit.start("liar", running)
    await answer(kit, "liar", done)
    async with kit.database.begin() as connection:
        assert await quarantine(connection, cycle_id, "liar", None, "tested") == 1
        assert await quarantine(connection, cycle_id, "liar", None, "again") is None
    refused = await kit.pool.submit("liar", [kit.result(running)])
    assert [refusal.reason for refusal in refused.errors] == ["lost"]
    assert (await kit.pool.heartbeat("liar", [kit.lease(running)])).lost == [running.task_uuid]
    assert (await kit.pool.submit("liar", [kit.result(done)])).accepted == 1  # known already, and still withdrawn
    assert await kit.rows("select 1 from verdicts") == []
    assert len(await fetch(kit, "two")) == 2


async def test_a_budget_that_only_a_withdrawn_report_had_spent_is_there_again(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=3, budget_s=10)
    (task,) = await fetch(kit, "liar", 1)
    await answer(kit, "liar", task, policy_seconds=5000.0)
    assert (await kit.pool.stats()).completed_tasks == 3  # two are too slow
    async with kit.database.begin() as connection:
        await quarantine(connection, cycle_id, "liar", None, "tested")
    assert len(await fetch(kit, "two")) == 3
    assert len(await kit.rows("select 1 from withdrawn_verdicts")) == 3


async def test_a_task_an_executor_had_made_fail_is_tried_anew(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=1, max_attempts=1)
    (task,) = await fetch(kit, "liar")
    await kit.pool.submit("liar", [kit.fault(task)])
    assert (await kit.pool.stats()).failed_tasks == 1
    async with kit.database.begin() as connection:
        await quarantine(connection, cycle_id, "liar", None, "tested")
    assert len(await fetch(kit, "two")) == 1


async def test_a_miner_is_run_by_whoever_is_left_when_nobody_else_may(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=1)
    await are_there(kit, "one")
    async with kit.database.begin() as connection:
        await quarantine(connection, cycle_id, "one", "hotkey0", "tested")
    await are_there(kit, "two")
    assert await fetch(kit, "one") == []
    async with kit.database.begin() as connection:
        await quarantine(connection, cycle_id, "two", "hotkey0", "tested")
    assert len(await fetch(kit, "one")) == 1


async def test_a_pardon_gives_tasks_again_and_forgets_the_disputes_before(kit) -> None:
    cycle_id = await kit.start_cycle(miners=12, environments=ONE, episodes=1, drawn=range(10))
    for task in await fetch(kit, "liar"):
        await answer(kit, "liar", task, success=False)
    await are_there(kit, "two", "three")
    await settle(kit, cycle_id, {"two": True, "three": True})
    async with kit.database.begin() as connection:
        assert await pardon(connection, "liar") == 11
        assert await pardon(connection, "liar") == 0
        assert await quarantines(connection) == []
        assert await disputes(connection, "liar") == (0, 0)
    await kit.run("update tasks set status = 'pending', lease_token = null where position = 0 and audit_id is null")
    assert len(await fetch(kit, "liar")) == 1


# Traces


def traced(trace: str, processor: str = "a CPU") -> dict[str, object]:
    """What a report says beside its verdict, run in an image on this processor."""
    record = made_up_record()
    simulation = record.conditions.simulation.model_copy(update={"stack": {"processor": processor}})
    conditions = record.conditions.model_copy(update={"simulation": simulation})
    return {
        "trace_digest": trace,
        "image_digest": "sha256:1",
        "record": record.model_copy(update={"conditions": conditions}),
    }


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (traced("honest"), "agreed"),
        (traced("invented"), "contradicted"),
        (traced("another", processor="another CPU"), "agreed"),
        ({"trace_digest": "another"}, "agreed"),
    ],
    ids=["the same", "invented", "on another processor", "from no image and with no record"],
)
async def test_traces_decide_where_image_and_simulation_are_the_same(kit, other, found: str) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=1, drawn=[0])
    (task,) = await fetch(kit, "one")
    await answer(kit, "one", task, **traced("honest"))
    await are_there(kit, "two", "three")
    await kit.audit(cycle_id)
    (again,) = await fetch(kit, "two")
    await answer(kit, "two", again, **other)
    for _ in range(3):
        await kit.audit(cycle_id)
        for third in await fetch(kit, "three"):
            await answer(kit, "three", third, **traced("honest"))
    (audit,) = await kit.rows("select state, contradicted, other_id from audits")
    assert tuple(audit) == (found, "two" if found == "contradicted" else None, "two")


async def test_the_record_of_a_withdrawn_verdict_goes_with_it_and_a_new_one_takes_its_place(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=1)
    (task,) = await fetch(kit, "liar")
    await answer(kit, "liar", task, record=made_up_record(made_up_steps()))
    async with kit.database.begin() as connection:
        assert await quarantine(connection, cycle_id, "liar", None, "tested") == 1
    assert await kit.rows("select 1 from records") == []
    (kept,) = await kit.rows("select verdict, record from withdrawn_verdicts")
    assert (kept.verdict["executor_id"], kept.record["facts"]) == ("liar", {"goal_m": 0.75})
    (again,) = await fetch(kit, "two")
    await answer(kit, "two", again, record=made_up_record(made_up_steps()))
    assert len(await kit.rows("select 1 from records")) == 1


# What policies' files are


async def finish(kit, cycle_id: int, files: dict[int, str], *executors: str) -> None:
    """Lets these run what is left, honestly, and its audits."""
    for _ in range(8):
        await kit.audit(cycle_id)
        for executor in executors:
            for task in await fetch(kit, executor):
                await answer(kit, executor, task, tree_digest=files[task.miner_uid])


async def agreed(kit, cycle_id: int) -> dict[int, str]:
    async with kit.database.connect() as connection:
        return agreed_files(await file_claims(connection, cycle_id), await executors_to_ask(connection))


async def test_one_false_word_on_a_miners_files_is_looked_into_though_its_episode_was_not_drawn(kit) -> None:
    cycle_id = await kit.start_cycle(miners=2, environments=ONE, episodes=20)
    (first,) = [task for task in await fetch(kit, "liar") if task.miner_uid == 1][:1]
    await answer(kit, "liar", first, tree_digest="owner's")  # the verdict is right, the files are another's
    await kit.pass_time(61)
    await are_there(kit, "one", "two", "liar")
    await finish(kit, cycle_id, {0: "owner's", 1: "its-own"}, "one", "two")
    assert await agreed(kit, cycle_id) == {0: "owner's", 1: "its-own"}
    async with kit.database.connect() as connection:
        assert [entry.executor_id for entry in await quarantines(connection)] == ["liar"]
        export = await load_export(connection, cycle_id)
    assert {episode.tree_digest for episode in export.episodes if episode.uid == 1} == {"its-own"}
    assert {episode.success for episode in export.episodes} == {True}


@pytest.mark.parametrize("victim", [0, 1], ids=["the earlier", "the later"])
async def test_who_ran_all_of_a_miner_and_calls_its_files_anothers_is_looked_into(kit, victim: int) -> None:
    cycle_id = await kit.start_cycle(miners=2, environments=ONE, episodes=3)
    files = {victim: "its-own", 1 - victim: "another's"}
    for task in await fetch(kit, "liar"):
        await answer(kit, "liar", task, tree_digest="another's")
    await are_there(kit, "one", "two")
    await finish(kit, cycle_id, files, "one", "two")
    assert (await agreed(kit, cycle_id))[victim] == "its-own"


async def test_two_who_differ_about_files_and_no_third_leave_it_open(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=2)
    for executor, digest in {"one": "its-own", "liar": "another's"}.items():
        (task,) = await fetch(kit, executor, 1)
        await answer(kit, executor, task, tree_digest=digest)
    await finish(kit, cycle_id, {0: "its-own"}, "one")
    assert await agreed(kit, cycle_id) == {}


async def test_a_copy_by_one_executors_word_needs_anothers_where_there_is_one(kit) -> None:
    cycle_id = await kit.start_cycle(miners=2, environments=ONE, episodes=1)
    files = {0: "same", 1: "same"}
    await finish(kit, cycle_id, files, "one")
    assert await agreed(kit, cycle_id) == files  # there is nobody else
    await are_there(kit, "two")
    assert await agreed(kit, cycle_id) == {}
    await finish(kit, cycle_id, files, "two")
    assert await agreed(kit, cycle_id) == files
    assert [row.state for row in await kit.rows("select state from audits")] == ["agreed", "agreed"]


async def test_what_a_quarantined_executor_said_of_files_in_earlier_cycles_is_forgotten_as_well(kit) -> None:
    earlier = await kit.start_cycle(miners=1, environments=ONE, episodes=1)
    await finish(kit, earlier, {0: "another's"}, "liar")
    await kit.run("update cycles set status = 'completed', completed_at = clock_timestamp()")
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=1)
    async with kit.database.begin() as connection:
        await quarantine(connection, cycle_id, "liar", None, "tested")
        assert await latest_claims(connection) == {}


# Policies that are not steady


async def test_an_unsteady_policy_is_marked_and_nobody_is_kept_from_anything(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=1, drawn=[0])
    (task,) = await fetch(kit, "one")
    await answer(kit, "one", task)
    await are_there(kit, "two", "three")
    await kit.audit(cycle_id)
    (again,) = await fetch(kit, "two")
    await answer(kit, "two", again, success=False)
    for success in (True, False):
        await kit.audit(cycle_id)
        (third,) = await fetch(kit, "three")
        await answer(kit, "three", third, success)
    await kit.audit(cycle_id)
    assert [row.state for row in await kit.rows("select state from audits")] == ["void"]
    marked = await kit.rows("select repo_key, revision from unsteady_policies")
    assert [tuple(row) for row in marked] == [("user0/repo", "a" * 40)]
    async with kit.database.connect() as connection:
        assert await quarantines(connection) == []


# When it can't be done


async def test_with_one_executor_nothing_is_asked_and_the_cycle_waits_for_nothing(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=1, drawn=[0])
    (task,) = await fetch(kit, "one")
    await answer(kit, "one", task)
    assert await kit.audit(cycle_id) is False
    async with kit.database.begin() as connection:
        await Auditor(connection).lapse(cycle_id)
    await kit.run("update cycles set status = 'completed', completed_at = clock_timestamp()")
    async with kit.database.connect() as connection:
        assert (await audit_counts(connection)).lapsed == 1


async def test_two_executors_that_contradict_each_other_are_both_left_alone_and_it_is_said(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=1, drawn=[0])
    (task,) = await fetch(kit, "one")
    await answer(kit, "one", task)
    await are_there(kit, "two")
    ran = await settle(kit, cycle_id, {"one": True, "two": False})
    assert ran == ["two", "one", "two"]
    async with kit.database.begin() as connection:
        await Auditor(connection).lapse(cycle_id)
        status = await load_status(connection)
    assert [row.state for row in await kit.rows("select state from audits")] == ["undecided"]
    assert status.quarantined == []
    assert "start a third executor" in status.reasons[0]


async def test_a_run_that_is_not_done_in_time_ends_with_the_audit(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=1, drawn=[0])
    (task,) = await fetch(kit, "one")
    await answer(kit, "one", task)
    await are_there(kit, "two")
    await kit.audit(cycle_id)
    (again,) = await fetch(kit, "two")
    await kit.start("two", again)
    async with kit.database.begin() as connection:
        await Auditor(connection).lapse(cycle_id)
    refused = await kit.pool.submit("two", [kit.result(again)])
    assert [refusal.reason for refusal in refused.errors] == ["lost"]
    assert await kit.rows("select 1 from audit_runs") == []


async def test_when_the_cycles_time_is_over_audits_lapse_and_no_verdict_is_withdrawn(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=3, drawn=[0])
    await are_there(kit, "two", "three")
    for task in await fetch(kit, "liar"):
        await answer(kit, "liar", task, success=False)
    for honest in ("two", "three", "three"):
        await kit.audit(cycle_id)
        (again,) = await fetch(kit, honest)
        await answer(kit, honest, again)
    await kit.run("update cycles set active_s = timeout_s + 1")
    async with kit.database.connect() as connection:
        cycle = await open_cycle(connection)
        await connection.rollback()
        await Lifecycle(connection, None, SchedulerSettings(), ()).wait(cycle)
        now = await progress(connection, cycle_id)
    assert (now.completed, now.failed) == (3, 0)
    assert [row.state for row in await kit.rows("select state from audits")] == ["undecided"]
    assert await kit.rows("select 1 from withdrawn_verdicts") == []


async def test_an_open_cycle_tells_nobody_what_is_checked(kit) -> None:
    cycle_id = await kit.start_cycle(miners=1, environments=ONE, episodes=1, drawn=[0])
    (task,) = await fetch(kit, "one")
    await are_there(kit, "two")
    await answer(kit, "one", task)
    await kit.audit(cycle_id)
    assert await kit.rows("select 1 from audits where state = 'open'")
    async with kit.database.connect() as connection:
        assert (await audit_counts(connection)).model_dump(exclude_none=True).keys() == {
            *("agreed", "contradicted", "void", "undecided", "lapsed")
        }
        assert sum((await audit_counts(connection)).model_dump(exclude={"cycle_id"}).values()) == 0
    stats = await kit.pool.stats()
    assert (stats.total_tasks, stats.pending_tasks) == (1, 0)

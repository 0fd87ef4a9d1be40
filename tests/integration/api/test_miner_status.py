"""No submission is ever stuck without a reason that its owner can read: every state that a commitment can be in."""

from collections.abc import Callable

import httpx
import pytest
import sqlalchemy as sa

from kinitro.scheduler.auditor import Auditor
from kinitro.scheduler.ownership import not_yours
from kinitro.schemas import LeaseRef
from kinitro.storage import MinerEntry, TaskPool, cycles, replace_turned_away, set_notice, try_leadership
from kinitro.storage import tables as t
from kinitro.types import MinerState, PolicyRef

REF = PolicyRef("dave/policy", "d" * 40)
REACH, PUSH = "metaworld/reach-v3", "metaworld/push-v3"


@pytest.fixture
def status(http: httpx.AsyncClient) -> Callable:
    async def ask(hotkey: str = "hotkey-1") -> dict:
        answer = await http.get(f"/v1/miners/{hotkey}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask


@pytest.fixture
async def scheduler(database):
    async with try_leadership(database) as connection:
        assert connection is not None
        yield


async def turn_away(database, state: MinerState, reason: str) -> None:
    async with database.begin() as connection:
        await replace_turned_away(connection, [MinerEntry(9, "hotkey-9", REF, 20, None, None, state, reason)])


async def say(database, topic: str, text: str) -> None:
    async with database.begin() as connection:
        await set_notice(connection, topic, text)


async def unknown(http: httpx.AsyncClient, hotkey: str = "hotkey-5") -> str:
    answer = await http.get(f"/v1/miners/{hotkey}")
    assert answer.status_code == 404
    return answer.json()["detail"]


# Not taken in yet


async def test_before_any_scheduler_has_run_it_says_that_none_does(http) -> None:
    assert "A scheduler: none runs" in await unknown(http)


async def test_a_scheduler_that_can_not_read_the_chain_is_the_reason(http, database, scheduler) -> None:
    await say(database, "chain", "ws://node did not answer within 60 s.")
    said = await unknown(http)
    assert "did not answer within 60 s" in said
    assert "none runs" not in said


async def test_a_commitment_made_while_a_cycle_runs_is_told_that_it_is_read_after_it(http, world) -> None:
    cycle_id = await world.plan()
    assert f"read anew when cycle {cycle_id} has ended" in await unknown(http)


async def test_a_commitment_between_two_cycles_is_told_when_the_next_one_begins(
    http, world, database, scheduler
) -> None:
    await world.finished_cycle()
    await say(database, "next", "The next cycle is due at 2026-11-26 16:00:00 UTC.")
    assert "due at 2026-11-26 16:00:00 UTC" in await unknown(http)


async def test_one_who_left_the_subnet_is_told_where_it_was_last_seen(http, world, database) -> None:
    first = await world.finished_cycle()
    async with database.begin() as connection:
        await connection.execute(sa.delete(t.cycle_miners).where(t.cycle_miners.c.cycle_id != first))
    await world.plan(revision="2")
    async with database.begin() as connection:
        gone = (t.cycle_miners.c.cycle_id > first, t.cycle_miners.c.hotkey == "hotkey-1")
        await connection.execute(sa.delete(t.cycle_miners).where(*gone))
    said = await unknown(http, "hotkey-1")
    assert f"was last in cycle {first}, at block 120" in said
    assert "no longer registered" in said


# Turned away


async def test_an_unreadable_commitment_is_rejected_with_what_is_wrong_in_it(world, status) -> None:
    await world.plan()
    found = await status("hotkey-3")
    assert (found["state"], found["reason"], found["waiting_for"]) == ("rejected", "not JSON", [])
    assert (found["committed_block"], found["seen_at_block"], found["queue"]) == (13, 120, None)


async def test_somebody_elses_policy_is_rejected_with_whose_it_is(database, status) -> None:
    await turn_away(database, MinerState.REJECTED, not_yours("5Owner"))
    found = await status("hotkey-9")
    assert found["state"] == "rejected"
    assert "5Owner" in found["reason"]


async def test_a_hub_that_does_not_answer_keeps_it_queued_and_says_so(database, status, scheduler) -> None:
    await turn_away(database, MinerState.QUEUED, "Whose policy it is can't be read yet: the hub asks us to slow down")
    await say(database, "hub", "Waiting for the hub, for 1 miners. It asks us to slow down.")
    found = await status("hotkey-9")
    assert found["state"] == "queued"
    assert "slow down" in found["reason"]
    assert any("hub" in each for each in found["waiting_for"])


async def test_one_that_waits_for_the_hub_while_a_cycle_runs_is_told_when_it_is_asked_again(
    world, database, status, scheduler
) -> None:
    cycle_id = await world.plan()
    await turn_away(database, MinerState.QUEUED, "Whose policy it is can't be read yet: the hub was away")
    assert f"The end of cycle {cycle_id}" in (await status("hotkey-9"))["waiting_for"][0]


async def test_a_copy_names_whose(world, status) -> None:
    await world.plan()
    found = await status("hotkey-2")
    assert (found["state"], found["reason"], found["waiting_for"]) == ("copy", "copy of uid 0", [])


# In a cycle


async def test_a_cycle_that_waits_for_its_block_says_which(world, database, status, scheduler) -> None:
    await world.plan(running=False)
    await say(database, "chain", "The node finalizes nothing.")
    found = await status()
    assert found["queue"]["status"] == "pending"
    assert found["waiting_for"][0] == "The node finalizes nothing."
    assert "Block 123" in found["waiting_for"][1]


async def test_the_queue_says_how_much_is_done_and_how_much_stands_before_it(world, database, status, scheduler):
    cycle_id = await world.plan()
    pool = TaskPool(database)
    await pool.fetch("executor-a", 1, None)
    found = await status()
    assert found["state"] == "queued"
    assert found["queue"] == {
        "cycle_id": cycle_id, "status": "running", "tasks_total": 4, "tasks_done": 0, "tasks_running": 0,
        "tasks_left": 4, "tasks_ahead": 3, "miners_ahead": 1,
    }  # fmt: skip
    assert found["waiting_for"] == ["Its turn: 3 episodes of 1 miners stand before it."]
    (task,) = [one for one in (await pool.fetch("executor-a", 4, None)).tasks if one.miner_uid == 1][:1]
    await pool.submit("executor-a", [world.outcome(task)])
    found = await status()
    assert found["queue"]["tasks_done"] == 1
    assert found["queue"]["tasks_running"] > 0
    assert found["waiting_for"][0].startswith("Its own episodes: ")


async def test_a_run_of_an_audit_is_seen_by_nobody(world, database, status, scheduler) -> None:
    cycle_id, pool = await world.plan(), TaskPool(database)
    async with database.begin() as connection:
        await connection.execute(sa.update(t.tasks).where(t.tasks.c.uid == 1).values(is_drawn=True))
    tasks = (await pool.fetch("executor-a", 100, None)).tasks
    await pool.submit("executor-a", [world.outcome(task) for task in tasks])
    unaudited = {hotkey: await status(hotkey) for hotkey in ("hotkey-0", "hotkey-1")}
    await pool.heartbeat("executor-b", [])
    async with database.begin() as connection:
        assert await Auditor(connection).advance(cycle_id)
    assert {hotkey: await status(hotkey) for hotkey in unaudited} == unaudited
    assert len((await pool.fetch("executor-b", 2, None)).tasks) == 2
    assert {hotkey: await status(hotkey) for hotkey in unaudited} == unaudited


async def test_an_environment_that_nobody_serves_is_named(world, database, status, scheduler) -> None:
    await world.plan()
    await TaskPool(database).fetch("executor-a", 1, [PUSH])
    assert (await status())["waiting_for"][0] == f"An executor that serves {REACH}: none has asked for work lately."


async def test_an_executor_that_paused_itself_is_named_with_its_reason_until_it_works_again(
    world, database, status, http, scheduler
) -> None:
    await world.plan()
    body = {"executor_id": "host-1", "batch_size": 5, "paused": "its self-test fails: no space left on device"}
    assert (await http.post("/v1/tasks/fetch", json=body)).json() == {"tasks": [], "total_pending": 0}
    said = "Executor host-1 has paused itself: its self-test fails: no space left on device"
    assert (await status())["waiting_for"][1] == said
    system = (await http.get("/v1/status")).json()
    assert system["reasons"] == [said, f"An executor that serves {REACH}, {PUSH}: none has asked for work lately."]
    assert system["unserved_environments"] == [REACH, PUSH]
    await http.post("/v1/tasks/fetch", json={"executor_id": "host-1", "batch_size": 1})
    assert (await http.get("/v1/status")).json()["reasons"] == []


async def test_a_paused_executor_that_is_gone_is_not_spoken_of_any_more(world, database, http) -> None:
    await TaskPool(database).pause("host-1", "no engine")
    async with database.begin() as connection:
        await connection.execute(sa.update(t.executors).values(last_seen_at=t.NOW - sa.text("interval '3 minutes'")))
    assert (await http.get("/v1/status")).json()["reasons"] == []


async def test_episodes_that_are_tried_again_are_no_mystery(world, database, status, scheduler) -> None:
    await world.plan()
    async with database.begin() as connection:
        mine = (t.tasks.c.uid == 1, t.tasks.c.env_id == REACH)
        await connection.execute(
            sa.update(t.tasks).where(*mine).values(not_before=t.NOW + sa.text("interval '1 minute'"))
        )
    assert any(each.startswith("2 episodes are to be tried again") for each in (await status())["waiting_for"])


async def test_when_its_own_episodes_are_done_it_waits_for_the_others_and_learns_nothing_of_the_outcome(
    world, database, status, scheduler
) -> None:
    cycle_id = await world.plan()
    pool = TaskPool(database)
    tasks = (await pool.fetch("executor-a", 100, None)).tasks
    await pool.submit("executor-a", [world.outcome(task) for task in tasks if task.miner_uid == 1])
    found = await status()
    assert found["waiting_for"] == [
        f"The end of cycle {cycle_id}: 4 episodes of other miners are left. Outcomes are published then."
    ]
    assert (found["state"], found["last_result"], found["avg_success_rate"]) == ("queued", None, None)
    assert "fell asleep" not in str(found)


async def test_a_cycle_whose_scheduler_is_gone_says_so(world, status) -> None:
    await world.plan()
    await world.run_everything()
    waits = (await status())["waiting_for"]
    assert waits[0] == "A scheduler: none runs on this API's database."
    assert "every episode is done" in waits[1]


async def test_a_failed_cycle_says_why_and_that_the_next_one_tries_again(world, status, scheduler) -> None:
    cycle_id = await world.plan()
    await world.fail(cycle_id)
    found = await status()
    assert found["state"] == "queued"
    assert found["reason"].startswith(f"cycle {cycle_id} failed (7 % of its tasks got no verdict)")
    assert found["waiting_for"]


# After a cycle


async def test_the_last_result_says_rates_prizes_weight_and_what_went_wrong(world, status, scheduler) -> None:
    cycle_id = await world.finished_cycle()
    winner, loser = (await status("hotkey-0"))["last_result"], (await status("hotkey-1"))["last_result"]
    assert winner["cycle_id"] == cycle_id
    assert winner["success_rates"] == {REACH: 1.0, PUSH: 1.0}
    assert (winner["prizes"], winner["points"], winner["weight"]) == (["crown"], 6, 1.0)
    assert (loser["prizes"], loser["points"], loser["weight"]) == ([], 0, 0.0)
    assert (winner["policy_errors"], loser["policy_errors"]) == ({}, {"fell asleep": 4})


async def test_a_policy_that_used_up_its_time_reads_too_slow(world, database, status, scheduler) -> None:
    await world.plan()
    async with database.begin() as connection:
        await connection.execute(sa.update(t.cycles).values(miner_time_budget_s=1.0))
    pool = TaskPool(database)
    tasks = (await pool.fetch("executor-a", 100, None)).tasks
    first = next(task for task in tasks if task.miner_uid == 1)
    await pool.submit("executor-a", [world.outcome(first)])
    rest = [LeaseRef(task_uuid=task.task_uuid, lease_token=task.lease_token) for task in tasks if task is not first]
    await pool.release("executor-a", rest)
    await world.run_everything()
    await world.complete()
    (error,) = [each for each in (await status())["last_result"]["policy_errors"] if each.startswith("too_slow")]
    assert "has used its 1 s of this cycle" in error


async def test_a_cycle_that_published_no_weights_has_no_share(world, status, scheduler) -> None:
    await world.plan()
    await world.run_everything()
    await world.complete(weights=False)
    assert (await status("hotkey-0"))["last_result"]["weight"] is None


async def test_the_last_result_stays_readable_while_the_next_cycle_runs(world, status, scheduler) -> None:
    first = await world.finished_cycle()
    second = await world.plan()
    found = await status("hotkey-0")
    assert (found["state"], found["last_result"]["cycle_id"], found["queue"]["cycle_id"]) == (
        "evaluated", first, second,
    )  # fmt: skip


async def test_a_late_found_copy_has_no_result_and_says_whose_copy_it_is(world, database, status, scheduler) -> None:
    cycle_id = await world.finished_cycle()
    async with database.begin() as connection:
        await cycles._mark_copies(connection, cycle_id, {1: "copy of uid 0"})
    found = await status()
    assert (found["state"], found["reason"], found["last_result"]) == ("copy", "copy of uid 0", None)


async def test_between_cycles_it_waits_for_the_next_one(world, database, status, scheduler) -> None:
    await world.finished_cycle()
    assert (await status())["waiting_for"] == ["The next cycle, which begins now."]
    await say(database, "next", "The next cycle is due at 2026-11-26 16:00:00 UTC.")
    assert (await status())["waiting_for"] == ["The next cycle is due at 2026-11-26 16:00:00 UTC."]


async def test_the_status_says_whether_a_scheduler_runs_and_whose_subnet_it_is(world, database, http) -> None:
    assert (await http.get("/v1/status")).json()["scheduler_running"] is False
    await world.plan()
    async with try_leadership(database):
        system = (await http.get("/v1/status")).json()
    assert (system["scheduler_running"], system["netuid"], system["genesis"]) == (True, 7, "0x" + "ab" * 32)

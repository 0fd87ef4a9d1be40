"""Single episodes with their records: hidden while their cycle runs, whole afterwards."""

from uuid import uuid4

import pytest

from kinitro.schemas import EpisodeOut
from kinitro.storage.task_pool import TaskPool
from kinitro.testing.records import made_up_record, made_up_steps

RECORD = made_up_record(made_up_steps())


async def reported(world) -> tuple[int, str]:
    """A running cycle, and a task of it whose result is in."""
    cycle_id = await world.plan()
    pool = TaskPool(world.database)
    (task,) = (await pool.fetch("executor-a", 1, None)).tasks
    await pool.submit("executor-a", [world.outcome(task).model_copy(update={"record": RECORD})])
    return cycle_id, str(task.task_uuid)


async def test_while_its_cycle_runs_an_episode_is_hidden(world, http) -> None:
    cycle_id, task = await reported(world)
    answer = await http.get(f"/v1/episodes/{task}")
    assert answer.status_code == 409
    assert f"Cycle {cycle_id} still runs" in answer.json()["detail"]
    assert "seed" not in answer.text


async def test_afterwards_it_is_there_with_its_record(world, http) -> None:
    _, task = await reported(world)
    await world.run_everything()
    await world.complete()
    found = EpisodeOut.model_validate_json((await http.get(f"/v1/episodes/{task}")).content)
    assert found.record == RECORD
    assert (found.hotkey, found.repo, found.netuid) == ("hotkey-0", "alice/policy", 7)
    assert (found.episode.seed, found.episode.success) == (777000, True)


async def test_an_unknown_task_is_404_and_a_malformed_one_422(http) -> None:
    assert (await http.get(f"/v1/episodes/{uuid4()}")).status_code == 404
    assert (await http.get("/v1/episodes/7")).status_code == 422


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"steps": "!" * 8}, "steps"),
        ({"steps": "A" * 400_000}, "steps"),
        ({"steps_sha256": "abc"}, "steps_sha256"),
        ({"facts": {"goal": "x" * 301}}, "facts"),
        ({"facts": {str(number): 0.0 for number in range(101)}}, "facts"),
        ({"conditions": {"eval_mode": "process"}}, "conditions"),
    ],
    ids=["not base64", "too large", "no digest", "a long fact", "many facts", "incomplete conditions"],
)
async def test_a_record_that_is_not_as_it_must_be_is_422_and_named(world, http, changes, field) -> None:
    await world.plan()
    (task,) = (await TaskPool(world.database).fetch("executor-a", 1, None)).tasks
    result = world.outcome(task).model_dump(mode="json") | {"record": RECORD.model_dump(mode="json") | changes}
    answer = await http.post("/v1/tasks/submit", json={"executor_id": "executor-a", "results": [result]})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][:5] == ["body", "results", 0, "record", field]

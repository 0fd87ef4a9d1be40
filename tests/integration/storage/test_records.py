"""Episodes' records: written with their verdicts, conditions once for all, steps for a while."""

from kinitro.storage.export import load_episode, load_export
from kinitro.storage.records import forget_steps, load_record
from kinitro.testing.records import made_up_record, made_up_steps

RECORD = made_up_record(made_up_steps())


async def finish(kit, count: int = 1, **fields) -> list:
    tasks = (await kit.pool.fetch("one", count, None)).tasks
    answer = await kit.pool.submit("one", [kit.result(task, **fields) for task in tasks])
    assert answer.accepted == count
    return tasks


async def test_a_record_comes_back_as_it_was_reported(kit) -> None:
    await kit.start_cycle()
    (task,) = await finish(kit, record=RECORD)
    async with kit.database.connect() as connection:
        assert await load_record(connection, task.task_uuid) == RECORD
        found = await load_episode(connection, task.task_uuid)
    assert found is not None
    assert (found.hotkey, found.repo, found.revision) == (task.miner_hotkey, task.miner_repo, task.miner_revision)
    assert (found.episode.seed, found.episode.policy_seed) == (task.seed, task.policy_seed)
    assert found.record == RECORD


async def test_what_many_episodes_share_is_kept_once(kit) -> None:
    cycle_id = await kit.start_cycle()
    await finish(kit, 3, record=RECORD)
    await finish(kit, 2, record=made_up_record(max_timesteps=250))
    assert len(await kit.rows("select * from conditions")) == 2
    assert len(await kit.rows("select * from records")) == 5
    async with kit.database.connect() as connection:
        export = await load_export(connection, cycle_id)
    recorded = [episode for episode in export.episodes if episode.conditions is not None]
    assert len(recorded) == 5
    limits = [export.conditions[episode.conditions].max_timesteps for episode in recorded]
    assert sorted(limits) == [250, 250, 500, 500, 500]


async def test_a_report_sent_twice_leaves_one_record(kit) -> None:
    await kit.start_cycle()
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    for _ in range(2):
        assert (await kit.pool.submit("one", [kit.result(task, record=RECORD)])).accepted == 1
    assert len(await kit.rows("select * from records")) == 1


async def test_a_report_with_another_record_is_a_conflict(kit) -> None:
    await kit.start_cycle()
    (task,) = await finish(kit, record=RECORD)
    answer = await kit.pool.submit("one", [kit.result(task, record=made_up_record(made_up_steps(6)))])
    assert [refusal.reason for refusal in answer.errors] == ["conflict"]


async def test_our_own_faults_leave_no_record(kit) -> None:
    await kit.start_cycle()
    (task,) = (await kit.pool.fetch("one", 1, None)).tasks
    await kit.pool.submit("one", [kit.fault(task, record=RECORD)])
    assert await kit.rows("select * from records") == []


async def test_an_episode_without_a_record_is_still_an_episode(kit) -> None:
    await kit.start_cycle()
    (task,) = await finish(kit)
    async with kit.database.connect() as connection:
        found = await load_episode(connection, task.task_uuid)
    assert found is not None
    assert found.record is None
    assert found.episode.conditions is None


async def test_steps_go_after_a_number_of_cycles_and_everything_else_stays(kit) -> None:
    tasks = []
    for _ in range(3):
        await kit.start_cycle()
        tasks += await finish(kit, record=RECORD)
        await kit.run("update cycles set status = 'completed'")
    async with kit.database.begin() as connection:
        assert await forget_steps(connection, kept_cycles=2) == 1
        records = [await load_record(connection, task.task_uuid) for task in tasks]
    assert [record.steps is None for record in records] == [True, False, False]
    assert records[0] == RECORD.model_copy(update={"steps": None})

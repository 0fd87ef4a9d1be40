"""Episodes that an executor reported, run again from what it reported."""

import base64
import shutil
import sys
from hashlib import sha256

import pytest

from kinitro.deployments.cache import publish
from kinitro.environments.trace import Steps
from kinitro.errors import InfrastructureError
from kinitro.replay import Answer, Recorded, Replay, recorded, replay, steps_elsewhere, without_policy
from kinitro.schemas import EpisodeOut
from kinitro.settings import ExecutorSettings
from kinitro.testing.line_world import catalogue
from kinitro.testing.records import as_shown

from .conftest import LINE_SERVER, RIGHT, until

RANDOM = "import random\ndef act(obs):\n    return {'continuous': {'ee_twist': [random.random(), 0, 0, 0, 0, 0]}}\n"
SEEDED = """
import random
def reset(task):
    random.seed(task['seed'])
def act(obs):
    return {'continuous': {'ee_twist': [random.random(), 0, 0, 0, 0, 0]}}
"""


@pytest.fixture
def run(api, run_executor):
    """Runs episodes of a policy by an executor; gives what the API would show of them."""

    async def run(ref, count: int = 1, **settings) -> list[EpisodeOut]:
        tasks = api.add(ref, count)
        known = {task.task_uuid: task for task in api.pending}
        async with run_executor(**settings):
            await until(lambda: set(tasks) <= set(api.results))
        return [as_shown(known[task], api.results[task]) for task in tasks]

    return run


@pytest.fixture
def again(home, switches):
    """Runs recorded episodes again, on a rig of their own."""
    server = (sys.executable, str(LINE_SERVER), "{host}", "{port}", str(switches))

    async def again(*episodes: Recorded) -> list[Replay]:
        settings = ExecutorSettings.load(eval_mode="process", max_concurrent=2, miner_deployment_warmup_timeout=10.0)
        runs = replay(episodes, settings, catalogue=catalogue(), environment_server=server)
        return [one async for one in runs]

    return again


def answer(done: list[Replay]) -> Answer:
    (one,) = done
    assert one.failure is None
    assert one.comparison is not None
    return one.comparison.answer


def findings(done: list[Replay]) -> str:
    (one,) = done
    return " ".join(one.comparison.findings) if one.comparison else str(one.failure)


async def test_a_policy_that_repeats_itself_comes_out_the_same(run, again, add_policy) -> None:
    episodes = [recorded(one) for one in await run(add_policy(SEEDED), 3)]
    done = await again(*episodes)
    assert {one.recorded.task_uuid for one in done} == {one.task_uuid for one in episodes}
    assert {answer([one]) for one in done} == {Answer.SAME}
    assert {one.comparison.compared for one in done} == {"digests"}


async def test_a_failure_of_the_policys_own_comes_out_the_same(run, again, add_policy) -> None:
    behaviour = """
    def act(obs):
        return {'continuous': {'ee_twist': [0.1] * (6 if obs['proprio']['ee_pos'][0] < 0.05 else 7)}}
    """
    (episode,) = await run(add_policy(behaviour))
    assert episode.episode.error_code == "malformed_action"
    assert answer(await again(recorded(episode))) is Answer.SAME


async def test_a_policy_that_does_not_repeat_itself_is_found_at_its_first_step(run, again, add_policy) -> None:
    (episode,) = await run(add_policy(RANDOM))
    done = await again(recorded(episode))
    assert answer(done) is Answer.DIFFERENT
    assert done[0].comparison.first_step == 1
    assert "shown the same, the policy did something else: ee_twist[0]" in findings(done)


async def test_a_policy_whose_files_were_changed_is_found(run, again, add_policy, store, home) -> None:
    ref = add_policy(SEEDED)
    (episode,) = await run(ref)
    snapshot = await store.obtain(ref)
    changed = home / "changed"
    shutil.copytree(snapshot.path, changed)
    server = changed / "server.py"
    server.chmod(0o644)
    server.write_text(server.read_text().replace("random.random()", "1.0"))
    snapshot.path.with_name(f"{snapshot.path.name}.complete").unlink()
    publish(changed, snapshot.path)
    done = await again(recorded(episode))
    assert answer(done) is Answer.DIFFERENT
    assert "The policy's files are not those that were evaluated" in findings(done)


async def test_a_flipped_verdict_is_found(run, again, add_policy) -> None:
    (episode,) = await run(add_policy(RIGHT))
    told = episode.episode.model_copy(update={"success": False, "score": 0.0})
    done = await again(recorded(episode.model_copy(update={"episode": told})))
    assert answer(done) is Answer.DIFFERENT
    assert "its steps say success" in findings(done)


async def test_a_record_forged_so_well_that_it_fits_together_is_found(run, again, add_policy) -> None:
    (episode,) = await run(add_policy(SEEDED), max_timesteps=3)
    steps = Steps.decode(base64.b64decode(episode.record.steps))
    forged = Steps(
        {"ee_twist": steps.continuous["ee_twist"] * 0.5}, steps.discrete, steps.rewards, steps.successes,
        steps.seen, steps.state_sha256,
    )  # fmt: skip
    kept = forged.encode()
    lie = EpisodeOut(
        **{name: getattr(episode, name) for name in ("cycle_id", "netuid", "hotkey", "repo", "revision")},
        episode=episode.episode.model_copy(update={"trace_digest": forged.digest()}),
        record=episode.record.model_copy(
            update={"steps": base64.b64encode(kept).decode(), "steps_sha256": sha256(kept).hexdigest()}
        ),
    )
    done = await again(recorded(lie))
    assert answer(done) is Answer.DIFFERENT
    assert done[0].comparison.first_step == 1
    (alone,) = [one async for one in without_policy([recorded(lie)], catalogue=catalogue())]
    assert answer([alone]) is Answer.DIFFERENT
    assert "the same action earned reward" in findings([alone])


async def test_recorded_actions_alone_bear_out_an_honest_record(run, add_policy) -> None:
    (episode,) = await run(add_policy(RANDOM))
    done = [one async for one in without_policy([recorded(episode)], catalogue=catalogue())]
    assert done[0].run.trace_digest == episode.episode.trace_digest
    assert done[0].run.success == episode.episode.success


async def test_a_policy_that_can_not_be_had_any_more_is_a_failure_with_its_reason(
    run, again, add_policy, store
) -> None:
    ref = add_policy(SEEDED)
    (episode,) = await run(ref)
    path = (await store.obtain(ref)).path
    path.with_name(f"{path.name}.complete").unlink()
    lost = episode.model_copy(update={"repo": "tests/--"})
    (done,) = await again(recorded(lost))
    assert done.comparison is None
    assert "could not be run again" in str(done.failure)


async def test_waits_that_would_be_late_on_a_slow_machine_are_given_more_time(run, again, add_policy) -> None:
    (episode,) = await run(add_policy(RIGHT))
    strict = episode.record.conditions.model_copy(update={"action_timeout_s": 1e-9})
    record = episode.record.model_copy(update={"conditions": strict})
    assert answer(await again(recorded(episode.model_copy(update={"record": record})))) is Answer.SAME


async def test_an_executor_that_keeps_steps_elsewhere_says_where(run, again, add_policy, tmp_path) -> None:
    archive = tmp_path / "records"
    (episode,) = await run(add_policy(SEEDED), records_url=archive.as_uri())
    assert episode.record.steps is None
    assert episode.record.steps_url.startswith(archive.as_uri())
    kept = await steps_elsewhere(episode, archive.as_uri())
    assert answer(await again(recorded(episode, kept))) is Answer.SAME


async def test_a_record_does_not_decide_what_is_opened(run, add_policy, tmp_path) -> None:
    (episode,) = await run(add_policy(SEEDED), records_url=(tmp_path / "records").as_uri())
    with pytest.raises(InfrastructureError, match="KINITRO_EXECUTOR_RECORDS_URL") as caught:
        await steps_elsewhere(episode, None)
    assert episode.record.steps_url in caught.value.message
    with pytest.raises(InfrastructureError, match="not in"):
        await steps_elsewhere(episode, (tmp_path / "mine").as_uri())


async def test_steps_that_the_archive_does_not_take_go_with_the_result(run, add_policy, tmp_path, events) -> None:
    (tmp_path / "records").write_text("a file where a directory must be")
    (episode,) = await run(add_policy(SEEDED), records_url=(tmp_path / "records").as_uri())
    assert episode.record.steps is not None
    assert episode.record.steps_url is None
    assert [event["event"] for event in events].count("steps_not_archived") == 1

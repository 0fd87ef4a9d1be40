import asyncio
import base64
import os
import platform
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kinitro.environments.trace import Steps
from kinitro.errors import ConfigurationError
from kinitro.testing.line_world import LINE_REACH
from kinitro.types import ErrorKind, PolicyRef

from .conftest import RIGHT, until

MANY = RIGHT + "HEALTH['max_concurrent_episodes'] = 8\n"
SLOW = "def act(obs):\n    time.sleep(0.1)\n    return {'continuous': {}}\nHEALTH['max_concurrent_episodes'] = 8\n"


def named(events, name):
    return [event for event in events if event["event"] == name]


def assert_replayable(result) -> None:
    """Its record says what it ran under, and its steps are those that the digest is of."""
    conditions = result.record.conditions
    assert (conditions.eval_mode, conditions.environment_version) == ("process", "line-1")
    assert (conditions.max_timesteps, conditions.action_timeout_s, conditions.timeout_s) == (500, 2.0, 20.0)
    assert (conditions.requirements_digest, conditions.policy_image_digest) == (None, None)
    assert conditions.simulation.images is False
    assert conditions.simulation.architecture == platform.machine()
    assert {"line", "python", "processor"} <= set(conditions.simulation.stack)
    steps = Steps.decode(base64.b64decode(result.record.steps))
    assert steps.digest() == result.trace_digest
    assert len(steps) == result.timesteps
    assert sum(steps.rewards) == result.total_reward


async def test_tasks_come_back_as_results_with_their_figures(api, run_executor, add_policy, events) -> None:
    tasks = api.add(add_policy(MANY), 10)
    async with run_executor():
        await until(lambda: len(api.results) == 10)
    assert set(api.results) == set(tasks) == api.started
    for result in api.results.values():
        assert (result.success, result.score, result.error) == (True, 1.0, None)
        assert result.timesteps > 0
        assert result.policy_seconds > 0
        assert len(result.tree_digest) == 64
        assert result.trace_digest
        assert_replayable(result)
    assert len(named(events, "miner_deployment_created")) == 1
    assert {(event["score"], event["success"]) for event in named(events, "task_executed")} == {(1.0, True)}
    assert len(named(events, "task_executed")) == 10
    assert named(events, "no_isolation")


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("raise RuntimeError('weights are missing')", "weights are missing"),
        ("HEALTH['model_loaded'] = False", "Miner deployment not ready"),
        ("def act(obs):\n    os._exit(5)", "exit code 5"),
        ("def act(obs):\n    return {'continuous': {'ee_twist': [1.0]}}", "ee_twist"),
        ("def act(obs):\n    time.sleep(3)", "did not answer"),
    ],
    ids=["crashes at import", "never healthy", "dies in an episode", "malformed action", "too slow"],
)
async def test_what_is_the_policys_fault_is_a_verdict(
    api, run_executor, add_policy, behaviour: str, words: str
) -> None:
    tasks = api.add(add_policy(behaviour), 4)
    async with run_executor(miner_deployment_warmup_timeout=1.5, action_timeout=0.3):
        await until(lambda: len(api.results) == 4)
    for task in tasks:
        assert api.results[task].error_kind is ErrorKind.POLICY
        assert words in api.results[task].error
        assert not api.results[task].success


async def test_a_policy_that_never_gets_ready_does_not_hold_up_another(api, run_executor, add_policy) -> None:
    api.add(add_policy("HEALTH['model_loaded'] = False", name="stuck"), 2)
    good = api.add(add_policy(MANY, name="good"), 4)
    async with run_executor(miner_deployment_warmup_timeout=60.0, max_concurrent=1, batch_size=8):
        await until(lambda: set(good) <= set(api.results), timeout_s=50.0)


async def test_a_task_that_names_an_endpoint_is_run_against_it(api, run_executor, add_policy, backend, store) -> None:
    from kinitro.deployments import DeploymentManager, DeploymentSettings

    ref = add_policy(MANY)
    async with (
        DeploymentManager(backend, store, DeploymentSettings()) as manager,
        manager.lease(ref, 1) as deployment,
        run_executor(miner_deployment_enabled=False),
    ):
        (task,) = api.add(PolicyRef("x/y", "0" * 40), 1, miner_endpoint=deployment.url)
        await until(lambda: task in api.results)
    assert api.results[task].success


async def test_without_deployments_tasks_that_need_one_go_back_unstarted(api, run_executor, events) -> None:
    (task,) = api.add(PolicyRef("x/y", "0" * 40))
    async with run_executor(miner_deployment_enabled=False):
        await until(lambda: task in api.released)
    assert not api.started
    assert not api.results
    assert named(events, "tasks_released")[0]["reason"].startswith("No miner endpoint available")


async def test_results_survive_an_api_that_goes_away_and_comes_back(api, run_executor, add_policy, events) -> None:
    tasks = api.add(add_policy(SLOW), 4)
    async with run_executor(max_timesteps=10):
        await until(lambda: api.started)
        await api.go()
        await until(lambda: len(named(events, "task_executed")) >= 1)
        assert not api.results
        await asyncio.sleep(1.0)
        await api.come()
        await until(lambda: set(api.results) == set(tasks))
    assert len(named(events, "api_unreachable")) == 1, "said once a period, not once a try"
    assert named(events, "api_reachable")


async def test_an_api_that_is_away_at_the_start_is_waited_for(api, run_executor, add_policy, events) -> None:
    tasks = api.add(add_policy(MANY), 2)
    await api.go()
    async with run_executor():
        await until(lambda: named(events, "api_unreachable"))
        await api.come()
        await until(lambda: set(api.results) == set(tasks))


async def test_an_api_whose_database_is_away_is_waited_for(api, run_executor, add_policy, events) -> None:
    tasks = api.add(add_policy(MANY), 2)
    api.refuse_with = 503
    async with run_executor():
        await until(lambda: named(events, "api_unreachable"))
        api.refuse_with = None
        await until(lambda: set(api.results) == set(tasks))


async def test_an_api_that_refuses_the_executor_ends_it_with_one_clear_line(api, run_executor) -> None:
    api.refuse_with = 401
    async with run_executor() as executor:
        await asyncio.wait({executor}, timeout=10)
        with pytest.raises(ConfigurationError, match="KINITRO_EXECUTOR_API_KEY"):
            executor.result()


async def test_a_rejected_result_is_said_and_not_sent_again(api, run_executor, add_policy, events) -> None:
    first, second = api.add(add_policy(MANY), 2)
    api.reject = {first: "conflict"}
    async with run_executor():
        await until(lambda: {first, second} <= set(api.results))
        submissions = api.submissions
        await asyncio.sleep(0.5)
        assert api.submissions == submissions
    assert [(event["task_uuid"], event["reason"]) for event in named(events, "result_rejected")] == [
        (str(first), "conflict")
    ]


@pytest.mark.parametrize("clock_ahead_s", [-600.0, 0.0, 600.0])
async def test_a_lease_is_kept_whatever_the_executors_clock_says(
    api, run_executor, add_policy, clock_ahead_s: float
) -> None:
    api.lease_s, api.clock_ahead_s = 3.0 if clock_ahead_s <= 0 else 60.0, clock_ahead_s
    api.add(add_policy(SLOW))
    async with run_executor(max_timesteps=30):
        await until(lambda: api.started)
        beats = api.heartbeats
        if api.lease_s < 60:
            await until(lambda: api.heartbeats >= beats + 2, timeout_s=api.lease_s)
        await until(lambda: api.results)


async def test_an_episode_whose_lease_is_lost_is_ended_and_not_reported(api, run_executor, add_policy, events) -> None:
    (task,) = api.add(add_policy(SLOW))
    async with run_executor(max_timesteps=500):
        await until(lambda: api.started)
        api.lose = {task}
        await until(lambda: named(events, "lease_lost"))
        (other,) = api.add(add_policy(MANY, name="other"))
        await until(lambda: other in api.results)
    assert task not in api.results


async def test_leases_are_taken_only_as_far_as_they_can_soon_be_used(api, run_executor, add_policy) -> None:
    api.add(add_policy(SLOW), 50)
    async with run_executor(max_timesteps=300, max_concurrent=2, batch_size=4):
        await until(lambda: len(api.started) == 2)
        await asyncio.sleep(0.5)
        assert len(api.leased) <= 6
        assert len(api.started) == 2


async def test_a_queue_for_a_busy_policy_leaves_no_slot_idle(api, run_executor, add_policy) -> None:
    api.add(add_policy("def act(obs):\n    time.sleep(0.1)\n    return {'continuous': {}}\n"), 4)
    (other,) = api.add(add_policy(RIGHT, name="other"))
    async with run_executor(max_timesteps=300, max_concurrent=2, batch_size=4):
        await until(lambda: other in api.results)
        assert len(api.results) == 1


async def test_the_end_waits_for_running_episodes_submits_them_and_gives_the_rest_back(
    api, run_executor, add_policy
) -> None:
    tasks = api.add(add_policy(SLOW), 6)
    async with run_executor(max_timesteps=10, shutdown_grace_seconds=30.0):
        await until(lambda: len(api.started) == 2)
    assert len(api.results) == 2
    assert set(api.results) <= api.started
    assert {task.task_uuid for task in api.pending} == set(tasks) - set(api.results)
    assert not api.leased


async def test_what_does_not_end_within_the_grace_is_given_back(api, run_executor, add_policy) -> None:
    tasks = api.add(add_policy(SLOW), 2)
    async with run_executor(max_timesteps=500, shutdown_grace_seconds=0.3):
        await until(lambda: len(api.started) == 2)
    assert {task.task_uuid for task in api.pending} == set(tasks)
    assert not api.results


async def test_servers_that_end_while_the_executor_does_blame_no_policy(api, run_executor, add_policy) -> None:
    (task,) = api.add(add_policy("def act(obs):\n    time.sleep(1.0)\n    os._exit(3)"))
    async with run_executor(shutdown_grace_seconds=20.0):
        await until(lambda: api.started)
        await asyncio.sleep(0.5)
    assert not api.results
    assert [pending.task_uuid for pending in api.pending] == [task]


async def test_starts_count_as_the_policys_time_from_the_first_that_it_made_necessary(
    api, run_executor, add_policy
) -> None:
    tasks = api.add(add_policy("time.sleep(1.0)\ndef reset(task):\n    os._exit(0)"), 3)
    async with run_executor(max_concurrent=1):
        await until(lambda: len(api.results) == 3)
    billed = sorted(api.results[task].policy_seconds for task in tasks)
    assert billed[0] < 1.0 <= billed[1]


async def test_an_environment_of_another_version_gives_no_verdict(api, run_executor, add_policy) -> None:
    (task,) = api.add(add_policy(MANY))
    async with run_executor(environments=(replace(LINE_REACH, version="newer"),)):
        await until(lambda: api.results)
    assert api.results[task].error_kind is ErrorKind.INFRASTRUCTURE
    assert f"ran {LINE_REACH.env_id} {LINE_REACH.version}, but this executor serves version newer" in (
        api.results[task].error
    )
    assert "kinitro env build" in api.results[task].error


@pytest.mark.parametrize("fault", ["broken", "dies"])
async def test_three_faults_of_one_kind_pause_it_until_its_self_test_passes(
    api, run_executor, add_policy, switches: Path, events, fault: str
) -> None:
    (switches / fault).touch()
    tasks = api.add(add_policy(MANY), 5)
    async with run_executor(max_concurrent=1, batch_size=2):
        await until(lambda: named(events, "executor_paused"))
        assert {result.error_kind for result in api.results.values()} == {ErrorKind.INFRASTRUCTURE}
        assert api.submissions <= 3
        await until(lambda: not api.leased)
        await until(lambda: named(events, "selftest_failed"))
        fetches = api.fetches
        await asyncio.sleep(0.5)
        assert api.fetches == fetches, "nothing is fetched while paused"
        assert api.paused[0].startswith("3 infrastructure faults of one kind: ")
        await until(lambda: api.paused[-1].startswith("its self-test fails: "))
        (switches / fault).unlink()
        await until(lambda: named(events, "executor_resumed"))
        await until(lambda: all(task in api.results and api.results[task].success for task in tasks))


async def test_an_environment_server_that_hangs_is_replaced(
    api, run_executor, add_policy, switches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinitro.executor.episodes._GRACE_S", 1.0)
    (switches / "hung").touch()
    (task,) = api.add(add_policy(MANY))
    async with run_executor(eval_timeout=1.0):
        await until(lambda: task in api.results)
        assert api.results[task].error_kind is ErrorKind.INFRASTRUCTURE
        assert "did not answer within" in api.results[task].error
        (switches / "hung").unlink()
        await until(lambda: api.results[task].success)


def _started_process(api, switches: Path, tmp_path: Path) -> subprocess.Popen:
    settings = {
        "API_URL": api.url, "EXECUTOR_ID": "process", "MAX_CONCURRENT": "2", "BATCH_SIZE": "4",
        "POLL_INTERVAL_SECONDS": "0.1", "MAX_TIMESTEPS": "15", "ACTION_TIMEOUT": "2",
    }  # fmt: skip
    environment = os.environ | {f"KINITRO_EXECUTOR_{name}": value for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("run_executor.py")), str(switches)],
        env=environment | {"KINITRO_HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def _children(tmp_path: Path) -> list[int]:
    """Processes that run a policy of this test or its environment servers."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_text() + str((entry / "cwd").readlink())
        except OSError:
            continue
        if str(tmp_path) in words and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


async def test_sigterm_with_episodes_in_flight_loses_no_result_and_leaves_no_process(
    api, switches: Path, add_policy, tmp_path: Path
) -> None:
    tasks = api.add(add_policy(SLOW), 6)
    process = _started_process(api, switches, tmp_path)
    await until(lambda: len(api.started) == 2)
    process.send_signal(signal.SIGTERM)
    _, errors = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 0, errors
    assert len(api.results) == 2
    assert "Traceback" not in errors
    assert {task.task_uuid for task in api.pending} == set(tasks) - set(api.results)
    assert not _children(tmp_path)


async def test_sigkill_leaves_no_process(api, switches: Path, add_policy, tmp_path: Path) -> None:
    api.add(add_policy(SLOW), 6)
    process = _started_process(api, switches, tmp_path)
    await until(lambda: len(api.started) == 2)
    assert len(_children(tmp_path)) >= 4
    process.kill()
    await asyncio.to_thread(process.communicate, timeout=10)
    await until(lambda: not _children(tmp_path), timeout_s=5)


async def test_a_second_signal_ends_it_at_once(api, switches: Path, add_policy, tmp_path: Path) -> None:
    api.add(add_policy("def act(obs):\n    time.sleep(1.5)\n    return {}"), 2)
    process = _started_process(api, switches, tmp_path)
    await until(lambda: api.started)
    process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(process.communicate, timeout=3)
    await until(lambda: not _children(tmp_path), timeout_s=5)


async def test_an_executor_that_was_given_no_name_has_the_same_one_after_a_restart(api, run_executor, events) -> None:
    for _ in range(2):
        async with run_executor(executor_id=None):
            await until(lambda: named(events, "executor_started"))
    first, second = (event["executor_id"] for event in named(events, "executor_started"))
    assert first == second
    assert re.fullmatch(r".+-[0-9a-f]{6}", first)


@pytest.mark.parametrize(("warmup_s", "needed_s"), [(300.0, None), (900.0, 1260.0)])
async def test_settings_that_need_longer_leases_than_the_apis_default_are_named(
    api, run_executor, events, warmup_s: float, needed_s: float | None
) -> None:
    async with run_executor(miner_deployment_warmup_timeout=warmup_s, eval_timeout=300.0):
        pass
    said = [event["needed_s"] for event in named(events, "leases_may_be_too_short")]
    assert said == ([needed_s] if needed_s else [])

"""Whatever is killed, no task is lost, nothing counts against a policy that did nothing, and nothing is left."""

import asyncio
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kinitro.backends.docker import DockerBackend
from kinitro.errors import ConfigurationError
from kinitro.policy import server as policy_server
from kinitro.types import ErrorKind, PolicyRef

from .conftest import docker, in_host_network, left_over, until

ENV_ID = "metaworld/reach-v3"
SLOW = """
import time

class Policy:
    needs_images = False

    def reset(self, task, seed):
        return None

    def act(self, obs, state):
        time.sleep(0.05)
        return {"continuous": {"ee_twist": [0.0] * 6}}
"""


@pytest.fixture
def slow_policy(tmp_path: Path, store) -> PolicyRef:
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "policy.py").write_text(SLOW)
    (folder / "server.py").write_text(Path(policy_server.__file__).read_text())
    return store.add_local(folder, "tests/slow")


def rules() -> str:
    """The host's INPUT chain."""
    return in_host_network("iptables -S INPUT; iptables-legacy -S INPUT")


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running_policy() -> list[str]:
    return docker("ps", "-q", "--filter", "label=kinitro.role=policy").split()


async def test_a_killed_executor_leaves_no_container_network_volume_or_rule(api, executor_process, slow_policy) -> None:
    (task,) = api.add(slow_policy, env_id=ENV_ID)
    async with executor_process() as process:
        await until(lambda: task in api.started and running_policy())
        assert "-i kn" in rules()
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await until(lambda: left_over() == [] and "-i kn" not in rules(), 30)


async def test_what_is_left_when_everything_was_killed_goes_with_cleanup(api, executor_process, slow_policy) -> None:
    (task,) = api.add(slow_policy, env_id=ENV_ID)
    async with executor_process() as process:
        await until(lambda: task in api.started and running_policy())
        for pid in [*children(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)
        await process.wait()
    assert left_over()
    assert "-i kn" in rules()
    async with executor_process("--cleanup") as process:
        said, _ = await process.communicate()
        assert process.returncode == 0, said
    assert b"Removed" in said
    assert left_over() == []
    assert "-i kn" not in rules()


async def test_cleanup_spares_an_executor_that_lives(api, executor_process, slow_policy) -> None:
    (task,) = api.add(slow_policy, env_id=ENV_ID)
    async with executor_process() as process:
        await until(lambda: task in api.started and running_policy())
        before = set(left_over())
        async with executor_process("--cleanup") as cleaner:
            assert b"Nothing was left" in (await cleaner.communicate())[0]
        assert before <= set(left_over())
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert process.returncode == 0


@pytest.mark.parametrize("role", ["policy", "environment"])
async def test_a_container_killed_from_outside_is_nobodys_fault(api, run_executor, slow_policy, role) -> None:
    (task,) = api.add(slow_policy, env_id=ENV_ID)
    async with run_executor(max_timesteps=60):
        await until(lambda: task in api.started and running_policy())
        await asyncio.sleep(1.0)
        await until(lambda: docker("ps", "-q", "--filter", f"label=kinitro.role={role}").split())
        docker("kill", *docker("ps", "-q", "--filter", f"label=kinitro.role={role}").split())
        await until(lambda: task in api.results)
        assert api.results[task].error_kind is ErrorKind.INFRASTRUCTURE, api.results[task].error
        await until(lambda: api.results[task].error is None)


async def test_policies_are_refused_where_a_container_reaches_this_host(settings) -> None:
    with pytest.raises(ConfigurationError, match=r"would not be isolated .* the probe reached"):
        async with DockerBackend(replace(settings, isolate=False)):
            pass


async def test_a_missing_image_is_told_at_the_start_with_how_to_build_it(run_executor) -> None:
    with pytest.raises(ConfigurationError, match="Failed to pull image") as refused:
        async with run_executor(eval_images='{"metaworld": "kinitro/no-such:v9"}'):
            pass
    assert "kinitro env build metaworld --tag kinitro/no-such:v9" in str(refused.value)


def kill_engine(pid_file: Path) -> None:
    os.kill(int(pid_file.read_text()), signal.SIGKILL)


def start_engine(pid_file: Path) -> None:
    script = "setsid dockerd >/dev/null 2>&1 </dev/null & echo $!"
    pid_file.write_text(subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif("KINITRO_TEST_ENGINE_PID" not in os.environ, reason="no engine that may be killed (CI has one)")
@pytest.mark.timeout(240)
# The SDK leaves its socket open when the engine refuses a connection.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_engine_that_is_killed_costs_no_task_and_blames_no_policy(api, run_executor, slow_policy) -> None:
    """The file named by KINITRO_TEST_ENGINE_PID holds the process id of a `dockerd` started for these tests."""
    pid_file = Path(os.environ["KINITRO_TEST_ENGINE_PID"])
    tasks = api.add(slow_policy, 2, env_id=ENV_ID)
    seen = []
    async with run_executor(max_timesteps=60, max_concurrent=1):
        await until(lambda: running_policy() and api.started)
        await asyncio.sleep(1.0)
        kill_engine(pid_file)
        await asyncio.sleep(2.0)
        start_engine(pid_file)

        def done() -> bool:
            seen.extend(result.error_kind for result in api.results.values())
            return all(task in api.results and api.results[task].error is None for task in tasks)

        await until(done, 180)
    assert ErrorKind.POLICY not in seen

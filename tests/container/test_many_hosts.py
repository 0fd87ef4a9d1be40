"""Docker hosts behind SSH: a second engine that has nothing in common with this machine's, and a real SSH server."""

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kinitro.backends.docker import DockerBackend
from kinitro.demo.miners import MINERS, write_folder
from kinitro.errors import ConfigurationError
from kinitro.types import ErrorKind

from .conftest import METAWORLD, RUNNER, docker, until
from .second_host import SecondHost, second_host

ENV_ID = "metaworld/reach-v3"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces for a second Docker host need root"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def there() -> Iterator[SecondHost]:
    with tempfile.TemporaryDirectory(prefix="kn2-") as folder, second_host(Path(folder), RUNNER, METAWORLD) as host:
        yield host


@pytest.fixture(autouse=True)
def its_ssh(there: SecondHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PATH", f"{there.commands}:{os.environ['PATH']}")
    yield
    end = time.monotonic() + 15
    while left_there(there) and time.monotonic() < end:  # a helper of the sweep may be at work
        time.sleep(0.2)
    assert left_there(there) == []


def left_there(there: SecondHost) -> list[str]:
    """Everything of ours that the other engine still has."""
    kinds = (("ps", "-aq"), ("network", "ls", "-q"), ("volume", "ls", "-q"))
    return [one for kind in kinds for one in there.docker(*kind, "--filter", "label=kinitro.run").split()]


def roles(docker_command) -> Counter[str]:
    """How many containers of each role that engine runs."""
    return Counter(docker_command("ps", "--format", '{{.Label "kinitro.role"}}').split())


@pytest.fixture
def policies(store, tmp_path):
    refs = []
    for miner in MINERS[:2]:
        write_folder(miner, tmp_path / miner.name)
        refs.append(store.add_local(tmp_path / miner.name, miner.repo))
    return refs


async def test_policies_go_to_both_hosts_each_with_its_environment_beside_it(
    api, run_executor, policies, there
) -> None:
    tasks = {task for uid, ref in enumerate(policies) for task in api.add(ref, 3, uid=uid, env_id=ENV_ID)}
    both = {"policy": 1, "environment": 1}
    seen = []

    def done() -> bool:
        seen.append((roles(docker), roles(there.docker)))
        return tasks <= set(api.results)

    async with run_executor(eval_hosts=["localhost", there.url], max_concurrent=None):
        await until(done, 200)
    assert {api.results[task].error for task in tasks} == {None}
    assert any(here >= Counter(both) and far >= Counter(both) for here, far in seen)


async def test_a_lost_connection_costs_no_task_and_blames_nobody(api, run_executor, policies, there) -> None:
    tasks = set(api.add(policies[0], 3, env_id=ENV_ID))
    blamed = []

    def done() -> bool:
        blamed.extend(one.error for one in api.results.values() if one.error_kind is ErrorKind.POLICY)
        return all(task in api.results and api.results[task].error is None for task in tasks)

    async with run_executor(eval_hosts=[there.url], max_concurrent=1):
        await until(lambda: api.started and roles(there.docker)["policy"])
        there.break_connections()
        await until(done, 200)
    assert blamed == []


async def test_what_a_killed_executor_leaves_on_another_host_goes(
    api, executor_process, policies, there, monkeypatch
) -> None:
    monkeypatch.setenv("KINITRO_EXECUTOR_EVAL_HOSTS", f'["{there.url}"]')
    api.add(policies[0], 3, env_id=ENV_ID)
    async with executor_process() as process:
        await until(lambda: roles(there.docker)["environment"])
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await until(lambda: not there.docker("ps", "-aq", "--filter", "label=kinitro.run").split(), 30)


async def test_policies_are_refused_where_they_would_reach_the_other_host(settings, there) -> None:
    with pytest.raises(ConfigurationError, match=rf"not be isolated on this Docker host \({there.url}\)"):
        async with DockerBackend(replace(settings, host=there.url, isolate=False)):
            pass


async def test_a_host_with_another_key_than_the_known_one_is_refused(settings, there) -> None:
    known = there.folder / "known_hosts"
    right = known.read_text()
    known.write_text(right[:-20] + "A" * 10 + right[-10:])
    try:
        with pytest.raises(ConfigurationError, match=r"can't be reached: .*[Hh]ost key") as refused:
            async with DockerBackend(replace(settings, host=there.url)):
                pass
    finally:
        known.write_text(right)
    assert "Log in by hand once: ssh -p 2222 -- root@10.99.213.2" in str(refused.value)


async def test_hosts_with_different_images_of_one_name_are_refused(run_executor, there) -> None:
    there.docker("tag", METAWORLD, "kinitro/metaworld:kept")
    there.docker("tag", RUNNER, METAWORLD)
    try:
        with pytest.raises(ConfigurationError, match=rf"localhost and {there.url} have different images") as refused:
            async with run_executor(eval_hosts=["localhost", there.url]):
                pass
    finally:
        there.docker("tag", "kinitro/metaworld:kept", METAWORLD)
    assert "docker save kinitro/metaworld:v1 | ssh root@10.99.213.2:2222 docker load" in str(refused.value)

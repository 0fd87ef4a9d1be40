"""The executor in Basilica mode, from task to result."""

from pathlib import Path
from uuid import UUID

import pytest

from kinitro.client import KinitroClient
from kinitro.deployments import SnapshotStore
from kinitro.environments.remote import EnvironmentServerPerEpisode
from kinitro.environments.workers import EnvironmentLaunch, EnvironmentWorkers
from kinitro.executor.link import ApiLink
from kinitro.executor.selftest import SelfTest
from kinitro.testing.line_world import LINE_REACH
from kinitro.types import ErrorKind

from .conftest import LINE_IMAGE, until

RIGHT = "def act(obs):\n    return {'continuous': {'ee_twist': [1.0, 0, 0, 0, 0, 0]}}\n"
BEHAVIOURS = {
    "right": RIGHT,
    "still": "",
    "dies": "def act(obs):\n    os._exit(7)\n",
    "wrong": "def act(obs):\n    return {'continuous': {'no_such_channel': [1.0]}}\n",
    "import-error": "import no_such_module\n",
}


@pytest.fixture
def store_of_nothing(tmp_path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots")


async def test_it_comes_to_the_same_verdicts_as_process_mode(api, basilica, upload, run_executor) -> None:
    refs = {name: upload(behaviour, name) for name, behaviour in BEHAVIOURS.items()}
    found = {}
    for mode in ("process", "basilica"):
        ids = {name: api.add(ref, 1, uid=uid) for uid, (name, ref) in enumerate(refs.items())}
        async with run_executor(eval_mode=mode, max_concurrent=3, max_timesteps=60):
            await until(lambda ids=ids: {one for some in ids.values() for one in some} <= set(api.results), 100)
        found[mode] = {
            name: [(api.results[one].success, api.results[one].trace_digest, api.results[one].error_kind,
                    api.results[one].tree_digest) for one in some]
            for name, some in ids.items()
        }  # fmt: skip
    assert found["basilica"] == found["process"]
    assert [success for success, *_ in found["basilica"]["right"]] == [True]
    assert {kind for *_, kind, _ in found["basilica"]["dies"]} == {ErrorKind.POLICY}
    assert basilica.alive == {}


async def test_the_self_test_runs_a_policy_of_its_own_without_a_hub(backend, basilica, api, store_of_nothing) -> None:
    launch = EnvironmentLaunch(
        images={"line": LINE_IMAGE}, client=lambda running, _: EnvironmentServerPerEpisode(running)
    )
    async with KinitroClient(api.url) as client, EnvironmentWorkers(backend, 1, launch) as workers:
        link = ApiLink(client, "test")
        selftest = SelfTest(backend, workers, link, store_of_nothing, [LINE_REACH], "python")
        await selftest.run("environment_start")
        assert {pod.name.split("-")[0] for pod in basilica.every} == {"kinitro", "line"}
        assert basilica.alive == {}


async def test_what_the_executor_has_is_told_to_the_api_and_a_policy_sees_a_task_id_like_any_other(
    api, upload, run_executor, tmp_path
) -> None:
    seen = tmp_path / "seen"
    api.add(upload(RIGHT + f"def reset(task):\n    open({str(seen)!r}, 'w').write(task['task_id'])\n"))
    async with run_executor():
        await until(lambda: any(usage and usage["policy"].created for usage in api.usages))
        await until(lambda: api.results)
    told = [usage for usage in api.usages if usage is not None][-1]
    assert told["policy"].created == told["environment"].created == 1
    assert told["policy"].seconds > 0
    assert UUID(seen.read_text()).version == 4, "not the id that names the deployment"


async def test_the_leases_that_this_mode_needs_are_named_as_its_page_has_them(run_executor, events) -> None:
    async with run_executor(miner_deployment_warmup_timeout=300.0, eval_timeout=300.0):
        pass
    (said,) = [event for event in events if event["event"] == "leases_may_be_too_short"]
    setting = f"KINITRO_API_MAX_LEASE_SECONDS={said['needed_s']:.0f}"
    assert setting in said["note"]
    assert setting in (Path(__file__).parents[3] / "docs" / "basilica.md").read_text()

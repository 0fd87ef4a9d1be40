import pytest
import structlog

from kinitro.demo.miners import MINERS, write_folder
from kinitro.types import PolicyRef

from .conftest import until

ENVIRONMENTS = ("metaworld/reach-v3", "metaworld/drawer-close-v3")


@pytest.mark.timeout(300)
async def test_docker_mode_comes_to_the_same_verdicts_as_process_mode(api, store, run_executor, tmp_path) -> None:
    tasks = {}
    for uid, miner in enumerate(MINERS[:4]):
        write_folder(miner, tmp_path / miner.name)
        ref = store.add_local(tmp_path / miner.name, miner.repo)
        for env_id in ENVIRONMENTS:
            for mode in ("docker", "process"):
                tasks[mode, uid, env_id] = (ref, env_id)
    found = {}
    for mode in ("docker", "process"):
        ids = {
            key: api.add(ref, 2, uid=key[1], env_id=env_id) for key, (ref, env_id) in tasks.items() if key[0] == mode
        }
        everything = {one for some in ids.values() for one in some}
        async with run_executor(eval_mode=mode):
            await until(lambda wanted=everything: wanted <= set(api.results), 200)
        found[mode] = {
            key[1:]: [(api.results[one].success, api.results[one].trace_digest, api.results[one].error) for one in some]
            for key, some in ids.items()
        }
    assert found["docker"] == found["process"]
    assert any(success for some in found["docker"].values() for success, *_ in some)


async def test_a_policy_server_elsewhere_is_nobodys_fault_where_containers_have_no_way_out(api, run_executor) -> None:
    (task,) = api.add(PolicyRef("x/y", "0" * 40), env_id=ENVIRONMENTS[0], miner_endpoint="http://192.0.2.1:8000")
    with structlog.testing.capture_logs() as events:
        async with run_executor():
            await until(lambda: task in api.released)
    assert not api.started
    assert not api.results
    (reason, *_) = [event["reason"] for event in events if event["event"] == "tasks_released"]
    assert "which environments in containers can't call" in reason

"""Each row of the "Configuration Reference", by what changes when it is set, and of "Mode Differences"."""

import json
from datetime import datetime

import pytest

from . import guide
from .machine import READER, inspected

pytestmark = pytest.mark.timeout(600)
ROWS = guide.table("Executor Environment Variables")
GIB = 1024**3
CHECKED = {
    "KINITRO_EXECUTOR_EVAL_MODE",
    "KINITRO_EXECUTOR_EVAL_MEM_LIMIT",
    "KINITRO_EXECUTOR_MINER_DEPLOYMENT_ENABLED",  # test_no_miner_endpoint_available
    "KINITRO_EXECUTOR_MINER_DEPLOYMENT_IMAGE",
    "KINITRO_EXECUTOR_MINER_HF_TOKEN",
    "KINITRO_EXECUTOR_MINER_DEPLOYMENT_TTL_SECONDS",
    "KINITRO_EXECUTOR_MINER_DEPLOYMENT_WARMUP_TIMEOUT",
    "KINITRO_EXECUTOR_MINER_BASILICA_API_TOKEN",  # test_5_basilica.py
}


def test_every_row_has_its_test() -> None:
    assert set(ROWS) == CHECKED


def test_docker_is_the_default_mode_and_another_is_taken_from_the_variable(walk, bench) -> None:
    assert ROWS["KINITRO_EXECUTOR_EVAL_MODE"][0] == "docker"
    assert walk.environments
    task = bench.add(bench.machine.upload("good"))
    with bench.executor(KINITRO_EXECUTOR_EVAL_MODE="process") as executor:
        assert bench.result(task).success
        assert inspected("policy") == inspected("environment") == []
    assert "no_isolation" in executor.shown


def test_an_environments_memory_as_docker_has_it(walk, changed) -> None:
    assert ROWS["KINITRO_EXECUTOR_EVAL_MEM_LIMIT"][0] == "8g"
    assert {one["HostConfig"]["Memory"] for one in walk.environments} == {8 * GIB}
    assert {one["HostConfig"]["Memory"] for one in changed.environments} == {2 * GIB}


def test_policies_run_in_the_image_that_is_named(walk, changed) -> None:
    default = ROWS["KINITRO_EXECUTOR_MINER_DEPLOYMENT_IMAGE"][0]
    assert {one["Config"]["Image"] for one in walk.policies} == {default}
    assert {one["Config"]["Image"] for one in changed.policies} == {changed.image}


def test_a_private_repo_is_read_with_the_token(bench, changed) -> None:
    assert bench.result(changed.private).success
    asked = [header for _, path, header in bench.machine.hub.seen if "/private/" in path and "policy.py" in path]
    assert f"Bearer {READER}" in asked


def test_a_deployment_goes_when_nobody_has_used_it_for_its_time_to_live(changed) -> None:
    (last,) = [line for line in changed.shown.splitlines() if f"task_uuid={changed.good}" in line]
    used = datetime.fromisoformat(last.split()[0]).timestamp()
    idle_s = changed.gone_at - used
    assert changed.ttl_s <= idle_s < 10 * changed.ttl_s
    assert changed.ttl_s < float(ROWS["KINITRO_EXECUTOR_MINER_DEPLOYMENT_TTL_SECONDS"][0])


def test_a_deployment_that_does_not_get_ready_is_given_up_at_the_timeout(bench, changed) -> None:
    result = bench.result(changed.never)
    assert result.error.startswith(f"Miner deployment not ready after {changed.warmup_s} s")
    assert changed.warmup_s <= result.policy_seconds < 10 * changed.warmup_s


def test_every_difference_of_the_modes_has_its_test() -> None:
    differences = {"Eval envs", "Miner deployments", "Memory format", "Requires"}  # test_an_environments_memory_...
    assert set(guide.table("Mode Differences")) == differences


def test_docker_mode_needs_the_docker_daemon(bench) -> None:
    assert guide.table("Mode Differences")["Requires"][0] == "Docker daemon"
    with bench.executor(DOCKER_HOST="unix:///nowhere.sock") as executor:
        assert executor.wait() == 1
    assert "Error: No Docker engine answers" in executor.shown


def test_both_kinds_of_server_are_local_containers_and_affinetes_started_the_environments(walk) -> None:
    assert "affinetes (local containers)" in guide.table("Mode Differences")["Eval envs"][0]
    assert "affinetes (local containers)" in guide.table("Mode Differences")["Miner deployments"][0]
    environments, policies = ([one["Config"]["Labels"] for one in each] for each in (walk.environments, walk.policies))
    assert {labels["kinitro.loaded-by"].split()[0] for labels in environments} == {"affinetes"}
    # Of a policy's container only the image is of affinetes' making: docs/decisions/0023.
    assert {labels["affinetes.env.type"] for labels in policies} == {"http_based"}
    assert not any("kinitro.loaded-by" in labels for labels in policies)
    assert json.dumps(walk.policies).count('"Running": true') == len(walk.policies)

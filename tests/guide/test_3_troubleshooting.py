"""Each heading of "Troubleshooting": provoked, it is the error's own first words, and the advice is there and helps."""

import pytest

from kinitro.types import ErrorKind

from . import guide

pytestmark = pytest.mark.timeout(600)
NO_MINERS, NO_IMAGE, NOT_READY, NO_ENDPOINT = guide.headings("Troubleshooting")
SLOW = "import time\n\ntime.sleep(6)\n"


def test_no_miners_with_commitments(walk) -> None:
    said, shown = walk.before_commitment
    assert f"] {NO_MINERS}" in said
    assert "Check that a miner has committed on this netuid" in said
    assert "kinitro miner show-commitment --netuid 2 --network ws://127.0.0.1" in said
    assert "Nobody has committed anything" in shown


@pytest.mark.parametrize(
    ("flags", "variables", "build"),
    [
        ("", {"KINITRO_EXECUTOR_MINER_DEPLOYMENT_IMAGE": "kinitro/no-such:v1"}, "miner"),
        ('--eval-images \'{"metaworld": "kinitro/no-such:v1"}\'', {}, "metaworld"),
    ],
    ids=["miner", "metaworld"],
)
def test_failed_to_pull_image(bench, flags, variables, build) -> None:
    with bench.executor(flags, **variables) as executor:
        assert executor.wait() == 1
    *_, said, advice = executor.shown.splitlines()
    assert said.startswith(f"Error: {NO_IMAGE} kinitro/no-such:v1, and it is not on this machine")
    assert advice == f"  Build it: kinitro env build {build} --tag kinitro/no-such:v1"


def test_miner_deployment_not_ready_when_its_server_does_not_start(bench, changed) -> None:
    error = bench.result(changed.broken).error
    assert error.startswith(f"{NOT_READY}: the policy's server ended at its start with exit code 1")
    assert "no weights" in error
    assert "kinitro miner serve" in error


def test_miner_deployment_not_ready_when_the_token_is_not_valid(bench) -> None:
    bench.add(bench.machine.upload("private", private=True))
    with bench.executor(HF_TOKEN="hf_nobodystoken3") as executor:
        line = executor.until("infrastructure_fault")
    assert f"{NOT_READY}: The hub refuses our own access (401)." in line
    assert "Check KINITRO_EXECUTOR_MINER_HF_TOKEN" in line
    bench.api.pending.clear()


def test_miner_deployment_not_ready_when_there_is_no_token_for_a_private_repo(bench) -> None:
    task = bench.add(bench.machine.upload("private", private=True))
    with bench.executor(HF_TOKEN=""):
        result = bench.result(task)
    assert result.error.startswith(f"{NOT_READY}: The repo is missing, private or gated")
    assert "HuggingFace token" in result.error


def test_miner_deployment_not_ready_in_time_is_helped_by_the_flag_that_the_guide_names(bench) -> None:
    slow = bench.machine.upload("slow", policy=SLOW + (bench.machine.template / "policy.py").read_text())
    hurried = bench.add(slow)
    with bench.executor("--miner-deployment-warmup-timeout 3"):
        result = bench.result(hurried)
    assert result.error_kind is ErrorKind.POLICY
    assert result.error.startswith(f"{NOT_READY} after 3 s")
    assert "raise --miner-deployment-warmup-timeout" in result.error
    patient = bench.add(slow)
    with bench.executor("--miner-deployment-warmup-timeout 90"):
        assert bench.result(patient).success


def test_no_miner_endpoint_available(bench) -> None:
    task = bench.add(bench.machine.upload("good"))
    with bench.executor(KINITRO_EXECUTOR_MINER_DEPLOYMENT_ENABLED="false") as executor:
        line = executor.until("tasks_released")
    assert f"{NO_ENDPOINT}: " in line
    for advice in ("KINITRO_EXECUTOR_MINER_DEPLOYMENT_ENABLED=true", "miner_repo", "miner_revision"):
        assert advice in line
    assert task in bench.api.released
    assert task not in bench.api.results
    bench.api.pending.clear()

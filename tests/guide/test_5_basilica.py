"""The guide in Basilica mode, at a local stand-in for the service: once through it, and what it says of that mode."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kinitro.backends.process import ProcessBackend
from kinitro.testing.basilica import ENVIRONMENT_SERVER, LocalBasilica, LocalPod, serving

from . import guide
from .conftest import Bench, Walk
from .guide import ENVIRONMENTS, EPISODES, documents
from .machine import POLICY, READER, Machine
from .terminal import Terminal

pytestmark = pytest.mark.timeout(600)
SERVICE_TOKEN = "basilica_thetokenoftheguide1"
METAWORLD, RUNNER = "kinitro/metaworld:v1", "kinitro/miner-runner:v1"


@pytest.fixture(scope="module")
def basilica(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBasilica]:
    """The service; the guide's `$HF_TOKEN` is one that only reads there, since pods are given it."""
    bench.machine.hub.access[READER] = {"role": "read"}
    enter = bench.machine.portal.wrap_async_context_manager
    images = {METAWORLD: ENVIRONMENT_SERVER, RUNNER: ()}
    with enter(ProcessBackend()) as processes:
        folder = tmp_path_factory.mktemp("pods")
        service = LocalBasilica(processes, folder, token=SERVICE_TOKEN, images=images, python=Path(sys.executable))
        with enter(serving(service)):
            yield service


def variables(basilica: LocalBasilica, token: str = SERVICE_TOKEN) -> dict[str, str]:
    return {"BASILICA_API_URL": basilica.url, "BASILICA_API_TOKEN": token, "HF_TOKEN": READER}


@pytest.fixture(scope="module")
def walked(machine: Machine, walk: Walk, basilica: LocalBasilica) -> Walk:
    """Step 1 to Step 6 once more, after the images were built, with this mode's commands in Step 5."""
    shutil.rmtree(POLICY, ignore_errors=True)
    machine.run(guide.RESET)
    walked = Walk(deployed=machine.run(guide.DEPLOY), after_commitment=machine.run(guide.SHOW_COMMITMENT))
    with (
        machine.terminal(guide.API) as walked.api,
        machine.terminal(guide.SCHEDULER) as walked.scheduler,
        machine.terminal(guide.BASILICA, **variables(basilica)) as walked.executor,
    ):
        walked.scheduler.until("cycle_completed", 400)
        walked.monitored["after"] = machine.run(guide.MONITOR)
        for name in ("executor", "scheduler", "api"):
            walked.ended[name] = getattr(walked, name).stop()
    return walked


def test_the_same_steps_bring_a_cycle_to_its_end_in_this_mode(walked: Walk, machine: Machine) -> None:
    assert f"uid {machine.uid}  {machine.hotkey}" in walked.after_commitment
    statistics, _, scores = documents(walked.monitored["after"])
    assert statistics["failed_tasks"] == 0
    assert (scores["cycle"]["id"], scores["cycle"]["status"]) == (1, "completed")
    assert sum(one["episodes_completed"] for one in scores["scores"]) == ENVIRONMENTS * EPISODES
    assert scores["pareto_frontier"] == [machine.uid]
    assert scores["miner_summary"][str(machine.uid)]["metaworld/drawer-close-v3"] == 1.0


def test_ctrl_c_ends_each_service_and_leaves_no_deployment(walked: Walk, basilica: LocalBasilica) -> None:
    assert walked.ended == {"executor": 0, "scheduler": 0, "api": 0}
    assert basilica.every
    assert basilica.alive == {}


@pytest.mark.parametrize("line", guide.command_lines(guide.code("Log Messages to Watch For")))
def test_a_log_line_to_watch_for_reads_as_the_guide_shows_it_in_this_mode_too(walked: Walk, line: str) -> None:
    assert guide.shows(f"{walked.scheduler.shown}{walked.executor.shown}", line)


@dataclass
class Run:
    """The guide's commands for this mode, with one task of a private policy and one that never gets ready."""

    executor: Terminal
    pods: list[LocalPod] = field(default_factory=list)
    exit_code: int | None = None


@pytest.fixture(scope="module")
def run(bench: Bench, basilica: LocalBasilica) -> Run:
    task = bench.add(bench.machine.upload("private", private=True))
    with bench.executor(command=guide.BASILICA, **variables(basilica)) as executor:
        run = Run(executor)
        assert bench.result(task, 120).success, bench.api.results[task].error
        run.exit_code = executor.stop()
    run.pods = list(basilica.every)
    return run


def test_policies_and_environments_run_as_deployments_of_the_service(run: Run) -> None:
    assert {pod.asked["image"] for pod in run.pods} == {METAWORLD, RUNNER}
    assert "miner_deployment_created" in run.executor.shown
    assert "task_executed" in run.executor.shown


def test_memory_is_asked_for_in_kubernetes_format(run: Run) -> None:
    assert "8Gi" in guide.BASILICA
    asked = {pod.asked["resources"]["memory"] for pod in run.pods if pod.asked["image"] == METAWORLD}
    assert asked <= {"8Gi", "8192Mi"}
    assert asked


def test_ctrl_c_leaves_no_deployment(run: Run, basilica: LocalBasilica) -> None:
    assert run.exit_code == 0
    assert basilica.alive == {}


def test_no_secret_is_shown(run: Run) -> None:
    assert SERVICE_TOKEN not in run.executor.shown
    assert READER not in run.executor.shown


def test_the_mode_is_taken_from_its_variable_too(bench: Bench, run: Run, basilica: LocalBasilica) -> None:
    task, before = bench.add(bench.machine.upload("good")), len(basilica.every)
    chosen = {"KINITRO_EXECUTOR_EVAL_MODE": "basilica", "KINITRO_EXECUTOR_MINER_BASILICA_API_TOKEN": SERVICE_TOKEN}
    with bench.executor(**variables(basilica) | chosen):
        assert bench.result(task, 120).success
    assert len(basilica.every) > before


def test_basilica_mode_without_its_token_has_no_miner_endpoint_available(bench: Bench, basilica: LocalBasilica) -> None:
    *_, heading = guide.headings("Troubleshooting")
    with bench.executor(command=guide.BASILICA, **variables(basilica, token="")) as executor:
        assert executor.wait() == 1
    *_, said, advice = executor.shown.splitlines()
    assert said.startswith(f"Error: {heading}: ")
    assert "KINITRO_EXECUTOR_MINER_BASILICA_API_TOKEN" in advice


def test_basilica_mode_needs_no_docker_daemon(bench: Bench, run: Run, basilica: LocalBasilica) -> None:
    assert guide.table("Mode Differences")["Requires"] == ("Docker daemon", "BASILICA_API_TOKEN")
    chosen = variables(basilica) | {"DOCKER_HOST": "unix:///nowhere.sock"}
    with bench.executor(command=guide.BASILICA, **chosen) as executor:
        executor.until("executor_started")

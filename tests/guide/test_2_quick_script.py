"""The Quick Test Script, from its first line to the end of its cleanup."""

import re
import subprocess

import pytest

from . import guide
from .conftest import until
from .machine import API, answers, docker

pytestmark = pytest.mark.timeout(600)


def test_the_script_runs_and_ctrl_c_ends_the_executor_and_then_all_of_it(walk, machine, tmp_path) -> None:
    script = tmp_path / "quick-e2e-test.sh"
    script.write_text(machine.literal(guide.SCRIPT))
    with machine.terminal(f"bash {script}\necho The prompt is back.\nread -r") as terminal:
        terminal.until("task_executed", 120, count=2)
        terminal.interrupt()
        terminal.until("The prompt is back", 60)
        terminal.until("api_stopped", 30)
        until(lambda: not still_running())
    shown = terminal.shown
    assert re.search(r"commitments_loaded +count=1", shown)
    assert shown.index("executor_stopping") < shown.index("The prompt is back") < shown.index("api_stopped")
    assert "results_not_submitted" not in shown, "the API was there until the executor had handed in its last results"
    assert docker("ps", "-aq", "--filter", "label=kinitro.run") == ""


def still_running() -> bool:
    found = subprocess.run(["pgrep", "-f", "kinitro (api|scheduler|executor) "], capture_output=True, check=False)
    return answers(API) or found.returncode == 0

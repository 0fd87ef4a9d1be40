"""Every way in which a player is known to fail ends in an infrastructure fault within seconds, and leaves nothing."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinitro.environments.procthor.launch import PlayerLaunch, ServerType
from kinitro.environments.procthor.simulator import Simulator, View
from kinitro.environments.procthor.tasks import draw_task
from kinitro.errors import ConfigurationError, EnvironmentFault
from kinitro.testing.procthor import stand_in_launch

from .conftest import BREAKING, session

VIEW = View(224, 90.0, headless=True)
SILENT = f"{shlex.quote(sys.executable)} -c 'import time; time.sleep(1000)'"
BOTH = pytest.mark.parametrize("server", ServerType)


def breaking(server: ServerType, **changes: object) -> PlayerLaunch:
    return replace(stand_in_launch(server), command=BREAKING, **changes)


def gone(process_id: int, within_s: float = 3.0) -> bool:
    end = time.monotonic() + within_s
    while session(process_id) and time.monotonic() < end:
        time.sleep(0.05)
    return session(process_id) == {}


def scratch() -> set[str]:
    return {path.name for path in Path("/tmp").glob("kinitro-thor-*")}


@BOTH
def test_a_player_that_exits_at_its_start(server):
    before, began = scratch(), time.monotonic()
    with pytest.raises(EnvironmentFault, match="exited with code 1") as caught:
        Simulator(replace(stand_in_launch(server), command="/bin/false"), VIEW, {})
    assert caught.value.code == "player_exited"
    assert time.monotonic() - began < 15
    assert scratch() <= before


@BOTH
def test_a_player_that_never_speaks(server):
    launch = replace(stand_in_launch(server), command=SILENT, start_timeout_s=4.0)
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match="did not answer start within 4 s") as caught:
        Simulator(launch, VIEW, {})
    assert caught.value.code == "player_silent"
    assert time.monotonic() - began < 15


@BOTH
def test_a_player_that_dies_in_a_step(server):
    simulator = Simulator(breaking(server), VIEW, {})
    simulator.reset(draw_task(0).document())
    used, began = cpu_s(), time.monotonic()
    with pytest.raises(EnvironmentFault, match="exited with code 3") as caught:
        simulator.step("MoveAhead", moveMagnitude=0.25)
    assert caught.value.code == "player_exited"
    assert time.monotonic() - began < 8
    assert cpu_s() - used < 3  # no core was spun until a deadline
    assert gone(simulator.process_id)


def cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@BOTH
def test_a_player_that_falls_silent_in_a_step(server):
    simulator = Simulator(breaking(server, step_timeout_s=3.0), VIEW, {})
    simulator.reset(draw_task(0).document())
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match="did not answer MoveBack within 3 s") as caught:
        simulator.step("MoveBack", moveMagnitude=0.25)
    assert caught.value.code == "player_silent"
    assert time.monotonic() - began < 12
    assert gone(simulator.process_id)


def test_without_a_display_nothing_is_started(monkeypatch, tmp_path):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    before = scratch()
    with pytest.raises(ConfigurationError, match="Xvfb is not installed"):
        Simulator(replace(stand_in_launch(), needs_display=True), View(224, 90.0), {})
    assert scratch() <= before


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="no Xvfb here (apt-get install xvfb)")
@pytest.mark.parametrize("dies", [False, True])
def test_a_display_of_our_own_is_started_and_ended(monkeypatch, dies):
    monkeypatch.delenv("DISPLAY", raising=False)
    simulator = Simulator(breaking(ServerType.FIFO, needs_display=True), View(224, 90.0), {})
    assert any(command.startswith("Xvfb") for command in session(simulator.process_id).values())
    simulator.reset(draw_task(0).document())
    if dies:
        with pytest.raises(EnvironmentFault):
            simulator.step("MoveAhead")
    else:
        simulator.close()
    assert gone(simulator.process_id)


def test_closing_ends_the_player_at_once_and_twice_is_fine():
    simulator = Simulator(stand_in_launch(), VIEW, {})
    assert len(session(simulator.process_id)) == 2
    began = time.monotonic()
    simulator.close()
    simulator.close()
    assert time.monotonic() - began < 3
    assert gone(simulator.process_id)


def test_when_we_are_killed_our_player_goes_too_and_its_folder(tmp_path):
    program = (
        "import time; from kinitro.environments.procthor.simulator import *;"
        "from kinitro.testing.procthor import stand_in_launch;"
        "s = Simulator(stand_in_launch(), View(224, 90.0, headless=True), {}); print(s.process_id, flush=True);"
        "time.sleep(60)"
    )
    variables = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        process_id = int(process.stdout.readline())
        assert len(session(process_id)) == 2
        assert list(tmp_path.glob("kinitro-thor-*"))
        process.send_signal(signal.SIGKILL)
    assert gone(process_id, within_s=8)
    assert not list(tmp_path.glob("kinitro-thor-*"))


def test_an_action_that_does_not_exist_is_our_fault_and_named():
    for action, arguments in (("FlyAway", {}), ("MoveAhead", {"speed": 3}), ("PickupObject", {"x": 0.5})):
        simulator = Simulator(stand_in_launch(), VIEW, {})
        with pytest.raises(EnvironmentFault, match=action) as caught:
            simulator.step(action, **arguments)
        assert caught.value.code == "player_refused"
        assert gone(simulator.process_id)


def test_a_real_environment_refuses_a_player_that_says_it_is_a_stand_in():
    with pytest.raises(EnvironmentFault, match="nothing is scored on it") as caught:
        Simulator(replace(stand_in_launch(), stand_in=False), VIEW, {})
    assert caught.value.code == "stand_in"


@BOTH
def test_pictures_arrive_upright_with_metric_depth(server):
    simulator = Simulator(stand_in_launch(server), View(224, 90.0, depth=True), {"visibilityDistance": 1.5})
    try:
        task = draw_task(3)
        frame = simulator.reset(task.document())
        assert frame.rgb.shape == (224, 224, 3)
        assert frame.depth.shape == (224, 224)
        top, bottom = frame.rgb[:40].mean(), frame.rgb[-40:].mean()
        assert top > bottom  # the ceiling is lighter than the floor
        assert 0.1 < float(np.median(frame.depth)) < 15
    finally:
        simulator.close()

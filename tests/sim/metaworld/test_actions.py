"""Our channels reach MetaWorld's native action space exactly, and no further."""

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import pytest

from kinitro.environments.base import Randomisation
from kinitro.environments.metaworld.adapter import MetaWorldEnvironment
from kinitro.environments.metaworld.experts import NativeEpisodes, as_channels
from kinitro.errors import EnvironmentFault
from kinitro.policy.messages import Action

STILL = np.zeros(6)


def raising(failure: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object) -> NoReturn:
        raise failure

    return fail


def solves(environment: MetaWorldEnvironment, seed: int) -> bool:
    environment.reset(seed)
    return any(environment.step(environment.expert_action()).success for _ in range(500))


def test_the_native_action_space_is_reached_exactly(build) -> None:
    environment = build("reach-v3")
    for native in ([1, -1, 1, -1], [-1, 1, -1, 1], [0.25, -0.5, 0.125, 0.0]):
        assert environment.native_action(as_channels(np.array(native, float))).tolist() == native


def test_gripper_zero_opens_and_one_closes(build) -> None:
    environment = build("reach-v3")
    environment.reset(1)
    for command in (1.0, 0.0):
        for _ in range(40):
            step = environment.step(Action({"gripper": np.array([command])}))
        assert step.observation.proprio["gripper"][0] == pytest.approx(command, abs=0.02)


def test_a_gripper_that_is_not_commanded_keeps_its_last_command(build) -> None:
    environment = build("reach-v3")
    environment.reset(1)
    environment.step(Action({"gripper": np.array([1.0])}))
    for _ in range(40):
        step = environment.step(Action())
    assert step.observation.proprio["gripper"][0] > 0.95
    environment.reset(1)
    for _ in range(5):
        step = environment.step(Action())
    assert step.observation.proprio["gripper"][0] < 0.05


def test_without_a_twist_the_hand_stays(build) -> None:
    environment = build("reach-v3")
    start = environment.reset(1).proprio["ee_pos"]
    for _ in range(40):
        step = environment.step(Action({"gripper": np.array([1.0])}))
    assert np.linalg.norm(step.observation.proprio["ee_pos"] - start) < 0.02


@pytest.mark.parametrize("axis", range(3))
def test_full_twist_moves_the_hand_along_its_axis_by_a_centimetre_a_step(axis: int, build) -> None:
    environment = build("reach-v3", level=Randomisation.OFF)
    twist = np.zeros(6)
    twist[axis] = 1.0
    start = environment.reset(2).proprio["ee_pos"]
    for _ in range(20):
        step = environment.step(Action({"ee_twist": twist}))
    moved = step.observation.proprio["ee_pos"] - start
    assert moved[axis] == pytest.approx(0.2, abs=0.06)
    assert np.abs(np.delete(moved, axis)).max() < 0.03


def test_the_rotation_part_of_a_twist_does_nothing(build) -> None:
    turning, still = build("reach-v3"), build("reach-v3")
    for environment, twist in ((turning, np.array([0, 0, 0, 1.0, -1.0, 1.0])), (still, STILL)):
        environment.reset(3)
        for _ in range(10):
            environment.step(Action({"ee_twist": twist}))
    assert turning.state() == still.state()


def test_a_twist_beyond_the_limits_is_the_limit(build) -> None:
    beyond, limit = build("reach-v3"), build("reach-v3")
    for environment, size in ((beyond, 5.0), (limit, 1.0)):
        environment.reset(3)
        environment.step(Action({"ee_twist": np.full(6, size)}))
    assert beyond.state() == limit.state()


# A sample of the table in docs/environments.md, which `python bench/experts.py` makes for all tasks.
@pytest.mark.parametrize(
    "task",
    ["reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-open-v3", "window-close-v3", "sweep-into-v3"],
)
def test_experts_do_as_well_through_our_channels_as_natively(task: str, build) -> None:
    native, ours = NativeEpisodes(task), build(task, level=Randomisation.OFF)
    assert [solves(ours, seed) for seed in range(3)] == [native.run(seed, 500) for seed in range(3)]


@pytest.mark.parametrize("task", ["pick-place-v3", "drawer-close-v3", "peg-insert-side-v3"])
def test_experts_still_solve_the_task_under_standard_randomisation(task: str, build) -> None:
    environment = build(task)
    assert sum(solves(environment, seed) for seed in range(3)) >= 2


def test_a_simulation_that_diverges_fails_the_episode(build, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its own log where it stands
    environment = build("push-v3")
    environment.reset(1)
    environment._simulator.data.qvel[:] = 1e30
    step = environment.step(Action())
    assert step.failed is not None
    assert "overflowed" in step.failed
    assert not step.success


@pytest.mark.parametrize("failure", [ValueError("not finite"), AssertionError("h_prod")])
def test_a_reward_that_gives_up_on_a_diverged_simulation_fails_the_episode(
    failure: Exception, build, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its own log where it stands
    environment = build("push-v3")
    environment.reset(1)
    monkeypatch.setattr(environment._simulator._native, "compute_reward", raising(failure))
    environment._simulator.data.qvel[:] = 1e30
    assert environment.step(Action()).failed is not None


def test_a_reward_that_gives_up_on_a_sound_simulation_is_our_fault(build, monkeypatch) -> None:
    environment = build("push-v3")
    environment.reset(1)
    monkeypatch.setattr(environment._simulator._native, "compute_reward", raising(AssertionError("h_prod")))
    with pytest.raises(EnvironmentFault, match="could not step"):
        environment.step(Action())


def test_the_next_episode_after_a_divergence_is_whole(build, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its own log where it stands
    broken, whole = build("push-v3"), build("push-v3")
    broken.reset(1)
    broken._simulator.data.qvel[:] = 1e30
    broken.step(Action())
    broken.reset(2)
    whole.reset(2)
    assert broken.step(Action()).failed is None
    whole.step(Action())
    assert broken.state() == whole.state()

"""What a policy senses: true, in the documented units, and nothing that a robot could not know."""

import itertools
import subprocess
import sys
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from kinitro.environments import registry
from kinitro.environments.base import Randomisation
from kinitro.policy.messages import Action, Observation

CONTROL_STEP_S = 0.0125
MOVE = Action({"ee_twist": np.array([0.3, 0.6, -0.4, 0, 0, 0]), "gripper": np.array([0.6])})


def numbers(observation: Observation) -> Iterator[float]:
    """Every number in an observation but the pixels."""
    maps = (observation.proprio, observation.depth, observation.cam_intrinsics, observation.cam_extrinsics)
    for value in itertools.chain.from_iterable(part.values() for part in maps):
        yield from np.ravel(value).tolist()
    yield from (value for value in observation.extra.values() if not isinstance(value, str))


@pytest.mark.parametrize("task", [spec.task_name for spec in registry.select()])
def test_channels_are_those_of_the_catalogue_and_finite(task: str, build) -> None:
    environment = build(task)
    observation = environment.reset(4)
    assert {name: len(values) for name, values in observation.proprio.items()} == dict(environment.spec.proprio)
    assert np.all(np.isfinite(list(numbers(observation))))
    assert observation.extra == {"instruction": environment.spec.instruction}


@pytest.mark.parametrize("task", [spec.task_name for spec in registry.served_by(["metaworld"])])
def test_no_number_in_an_observation_is_hidden_state(task: str, build) -> None:
    environment = build(task)
    observation = environment.reset(6)
    hidden = [value for name, value in environment.facts().values.items() if name.startswith(("goal_m", "object_m"))]
    hidden = [value for value in hidden if isinstance(value, float) and value not in (0.0, 1.0)]
    seen = np.array(list(numbers(observation)) + list(numbers(environment.step(MOVE).observation)))
    for value in hidden:
        assert np.abs(seen - value).min() > 1e-7, value


@pytest.mark.parametrize("task", ["reach-v3", "push-v3", "pick-place-v3", "drawer-open-v3", "button-press-topdown-v3"])
def test_two_worlds_that_differ_only_in_hidden_state_feel_the_same(task: str, build) -> None:
    """Without images nothing tells the seeds apart until the robot touches something."""
    environment = build(task, level=Randomisation.OFF)
    felt = []
    for seed in (1, 2):
        environment.reset(seed)
        steps = [environment.step(Action({"ee_twist": np.array([0, 0, 1.0, 0, 0, 0])})) for _ in range(5)]
        felt.append([list(numbers(step.observation)) for step in steps])
    assert felt[0] == felt[1]


def test_the_hands_pose_and_velocity_are_true(build) -> None:
    environment = build("reach-v3")
    environment.reset(1)
    for _ in range(10):
        before = environment.step(MOVE).observation.proprio
    after = environment.step(MOVE).observation.proprio
    measured = (after["ee_pos"] - before["ee_pos"]) / CONTROL_STEP_S
    assert measured == pytest.approx((after["ee_vel_lin"] + before["ee_vel_lin"]) / 2, abs=0.05)
    turned = quaternion_difference(after["ee_quat"], before["ee_quat"]) / CONTROL_STEP_S
    assert turned == pytest.approx((after["ee_vel_ang"] + before["ee_vel_ang"]) / 2, abs=0.05)
    assert np.linalg.norm(after["ee_quat"]) == pytest.approx(1.0, abs=1e-5)
    body = environment._simulator.data.body("hand").xquat
    assert after["ee_quat"] == pytest.approx(body[[1, 2, 3, 0]], abs=1e-6)


def quaternion_difference(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The small rotation (rotation vector, world axes) that leads from one xyzw quaternion to another."""
    x, y, z, w = after
    left = np.array([[w, -z, y, x], [z, w, -x, y], [-y, x, w, z], [-x, -y, -z, w]])
    return 2.0 * (left @ (before * np.array([-1, -1, -1, 1])))[:3]


def test_episodes_without_images_carry_none(build) -> None:
    observation = build("reach-v3").reset(1)
    for part in (observation.rgb, observation.cam_intrinsics, observation.cam_extrinsics):
        assert isinstance(part, Mapping)
        assert not part


def test_episodes_without_images_load_no_graphics_library() -> None:
    code = """
import sys
from kinitro.environments import registry
from kinitro.environments.base import EnvironmentOptions
from kinitro.policy.messages import Action
environment = registry.build(registry.find("metaworld/push-v3"), EnvironmentOptions(images=False))
environment.reset(1)
environment.step(Action())
libraries = open("/proc/self/maps").read()
print([name for name in ("libGL", "libEGL", "libOSMesa", "libGLX") if name in libraries], "OpenGL" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[] False"


def test_goals_vary_apart_from_the_objects_exactly_where_the_catalogue_says_images_are_needed(build) -> None:
    for spec in registry.served_by(["metaworld"]):
        environment = build(spec.task_name, level=Randomisation.OFF)
        goals, gaps = [], []
        for seed in range(5):
            environment.reset(seed)
            simulator = environment._simulator
            goals.append(simulator.target)
            gaps.append(simulator.target - simulator.objects()[:3])
        varies = np.minimum(np.ptp(np.array(goals), axis=0), np.ptp(np.array(gaps), axis=0)).max() > 0.015
        assert varies == spec.needs_images, spec.task_name

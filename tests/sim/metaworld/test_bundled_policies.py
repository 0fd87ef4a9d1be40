"""The bundled policies are worth what the demo says of them, from what any policy is shown."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import kinitro.demo
from kinitro.environments.metaworld.adapter import MetaWorldEnvironment
from kinitro.policy.messages import Action

FOLDER = Path(kinitro.demo.__file__).parent / "policies"
EASY = ("drawer-close-v3", "drawer-open-v3", "button-press-topdown-v3", "reach-v3")
SEEDS = range(6)


@pytest.fixture(autouse=True)
def _fresh_modules() -> Iterator[None]:
    """Policies find their own modules beside them, as in a process of their own."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for added in set(sys.modules) - modules:
        if added in {"sight", "walks"}:
            del sys.modules[added]


def load(name: str) -> ModuleType:
    sys.path.insert(0, str(FOLDER / name))
    specification = importlib.util.spec_from_file_location(f"bundled_{name}", FOLDER / name / "policy.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


def actions(
    environment: MetaWorldEnvironment, name: str, seed: int, steps: int = 500
) -> tuple[bool, list[list[float]]]:
    policy, taken = load(name).Policy(), []
    observation = environment.reset(seed)
    state = policy.reset({"env_id": environment.spec.env_id, "task_name": environment.spec.task_name}, seed)
    for _ in range(steps):
        command = policy.act(vars(observation), state)["continuous"]
        taken.append([*command["ee_twist"], *command["gripper"]])
        step = environment.step(Action({channel: np.array(values) for channel, values in command.items()}))
        if step.success:
            return True, taken
        observation = step.observation
    return False, taken


def successes(environment: MetaWorldEnvironment, name: str) -> int:
    return sum(actions(environment, name, seed)[0] for seed in SEEDS)


@pytest.mark.parametrize("task", EASY)
def test_handy_solves_most_episodes_of_each_easy_task(task: str, build) -> None:
    assert successes(build(task), "handy") >= 4


@pytest.mark.parametrize("task", ["reach-v3", "push-v3", "pick-place-v3"])
def test_handy_solves_most_episodes_of_the_tasks_that_have_to_be_seen(task: str, build) -> None:
    environment = build(task, images=True)
    assert sum(actions(environment, "handy", seed, steps=200)[0] for seed in range(3)) >= 2


def test_one_trick_solves_its_task_and_no_other(build) -> None:
    assert [successes(build(task), "one_trick") for task in EASY] == [6, 0, 0, 0]


def test_doing_nothing_solves_nothing(build) -> None:
    assert [successes(build(task), "noop") for task in EASY] == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["noop", "random_actions", "one_trick", "handy"])
def test_the_same_seeds_make_the_same_moves_within_the_action_space(name: str, build) -> None:
    environment = build("drawer-open-v3")
    first, second = (actions(environment, name, 3, steps=40)[1] for _ in range(2))
    assert first == second
    moves = np.array(first)
    assert np.abs(moves).max() <= 1.0
    assert moves[:, 6].min() >= 0.0

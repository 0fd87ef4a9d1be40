"""MetaWorld's scripted experts, who read the privileged state: proof that a task can be solved through our channels."""

import warnings
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ENV_CLS_MAP
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

from kinitro.policy.messages import Action

Vector = NDArray[np.float64]
Expert = Callable[[Vector], Vector]
"""Privileged observation (39) to native action (4), not yet clipped."""


def expert(task_name: str) -> Expert:
    """MetaWorld's own expert for a task."""
    policy: Any = ENV_POLICY_MAP[task_name]()  # third party without types

    def act(privileged: Vector) -> Vector:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it warns of its own large gains
            return np.asarray(policy.get_action(privileged), dtype=np.float64)

    return act


def as_channels(native: Vector) -> Action:
    """The Action whose effect is exactly this native action's (4)."""
    clipped = np.clip(native, -1.0, 1.0)
    return Action({"ee_twist": np.array([*clipped[:3], 0.0, 0.0, 0.0]), "gripper": (clipped[3:] + 1.0) / 2.0})


class NativeEpisodes:
    """MetaWorld as it comes, without our adapter, at the placements that the same seeds give to ours."""

    def __init__(self, task_name: str) -> None:
        self._env: Any = ENV_CLS_MAP[task_name]()  # third party without types
        self._act = expert(task_name)
        vars(self._env).pop("sawyer_observation_space", None)  # cached with the goal's bounds at zero
        self._env._partially_observable = False  # noqa: SLF001 - no public names
        self._env._set_task_called = True  # noqa: SLF001 - likewise
        self._env.seeded_rand_vec = True

    def run(self, seed: int, max_steps: int) -> bool:
        """Whether the expert succeeds. `max_steps` is at most 500, MetaWorld's own limit."""
        observation = self._reset(seed)
        for _ in range(max_steps):
            observation, _, _, _, info = self._env.step(self._act(observation))
            if info["success"]:
                return True
        return False

    def _reset(self, seed: int) -> Vector:
        env = self._env
        env._freeze_rand_vec = False  # noqa: SLF001 - no public name
        for _ in range(2):
            env.seed(seed)
            mujoco.mj_resetData(env.model, env.data)
            env.reset_model()
        env._freeze_rand_vec = True  # noqa: SLF001 - from here on as `set_task` does
        observation, _ = env.reset()
        return np.asarray(observation)

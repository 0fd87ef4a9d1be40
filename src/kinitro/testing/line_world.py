"""A tiny environment without a simulator: reach a point on a line. For tests of everything around an environment."""

import random
import struct

import numpy as np

from kinitro.environments.base import EnvironmentOptions, EnvironmentSpec, EpisodeFacts, Step
from kinitro.environments.server import Catalogue
from kinitro.errors import ConfigurationError
from kinitro.policy.messages import Action, Observation

LINE_REACH = EnvironmentSpec(
    env_id="line/reach-v0",
    family="line",
    task_name="reach-v0",
    version="line-1",
    default=False,
    needs_images=False,
    cameras=("front",),
    proprio={"ee_pos": 3, "gripper": 1},
    continuous={"ee_twist": 6, "gripper": 1},
    discrete={"interact": 4},
    instruction="Move right until you arrive.",
    entry_point="kinitro.testing.line_world:LineWorld",
)
STEP_M = 0.1
RADIUS_M = 0.06


class LineWorld:
    """Starts at 0; the goal lies 0.5 m to 1.5 m to the right. `ee_twist[0]` = 1 moves 0.1 m a step."""

    def __init__(self, spec: EnvironmentSpec = LINE_REACH, options: EnvironmentOptions | None = None) -> None:
        self.spec = spec
        self.options = options or EnvironmentOptions()
        self._x = 0.0
        self._goal = 0.0
        self._steps = 0

    def reset(self, seed: int) -> Observation:
        """Draws the goal."""
        self._x, self._steps = 0.0, 0
        self._goal = random.Random(seed).uniform(0.5, 1.5)  # noqa: S311 (a simulated world, no secret)
        return self._observation()

    def step(self, action: Action) -> Step:
        """Moves; the reward is the negative distance in metres."""
        self._steps += 1
        twist = action.continuous.get("ee_twist")
        if twist is not None:
            self._x += STEP_M * float(twist[0])
        distance = abs(self._goal - self._x)
        return Step(self._observation(), reward=-distance, success=distance < RADIUS_M)

    def state(self) -> bytes:
        """Position, goal and step count."""
        return struct.pack("<ddq", self._x, self._goal, self._steps)

    def facts(self) -> EpisodeFacts:
        """The goal."""
        return EpisodeFacts({"goal_m": self._goal})

    def stack(self) -> dict[str, str]:
        """Python's own numbers."""
        return {"line": "1"}

    def close(self) -> None:
        """Holds nothing."""

    def _observation(self) -> Observation:
        proprio = {"ee_pos": np.array([self._x, 0.0, 0.0]), "gripper": np.zeros(1)}
        if not self.options.images:
            return Observation(proprio)
        shade = np.full((8, 8, 3), min(255, int(100 * abs(self._x))), dtype=np.uint8)
        return Observation(proprio, rgb={"front": shade})


def catalogue() -> Catalogue:
    """Nothing but the line."""
    return Catalogue(specs=lambda: (LINE_REACH,), find=find, build=LineWorld)


def find(env_id: str) -> EnvironmentSpec:
    """The registry's `find`, for this one environment."""
    if env_id != LINE_REACH.env_id:
        raise ConfigurationError(f"There is no environment {env_id!r}.")
    return LINE_REACH

"""A policy: replace the body of `Policy` with yours.

This one finds its way by the robot's own senses alone. It closes MetaWorld's drawer and wanders about in other tasks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

WAYPOINTS_M: dict[str, list[tuple[float, float, float]]] = {
    # Behind the open drawer, down, and forward against its front.
    "drawer-close-v3": [(0.0, 0.44, 0.25), (0.0, 0.44, 0.09), (0.0, 0.85, 0.09)],
}
NEAR_M = 0.015
GAIN = 20.0
"""Commanded speed for each metre still to go, as a share of the largest speed."""


@dataclass
class Episode:
    """What is remembered from one step to the next: the points still to visit."""

    points: list[Vector]


class Policy:
    """Made once, before the server answers: load your weights in `__init__`, from files beside this one."""

    needs_images = False  # True (the default) to be given camera images
    max_concurrent_episodes = 8  # how many episodes may be under way at once (default 1)

    def reset(self, task: dict[str, Any], seed: int) -> Episode:
        """Starts an episode and returns its state, which every `act` of this episode is given.

        `task` has "env_id", "env_name" and "task_name". Draw every random number from `seed`, so that the same seed
        always gives the same actions.
        """
        known = WAYPOINTS_M.get(task.get("task_name", ""))
        if known is not None:
            return Episode([np.array(point) for point in known])
        draw = np.random.default_rng(seed)
        return Episode(list(draw.uniform((-0.3, 0.4, 0.05), (0.3, 0.9, 0.4), (20, 3))))

    def act(self, obs: dict[str, Any], state: Episode) -> dict[str, Any]:
        """One action. `obs["proprio"]` maps channels to float arrays, `obs["rgb"]` cameras to uint8 images.

        A large model can also define `act_batch(observations, states)`, which gets all that wait at once and returns
        their actions in the same order.
        """
        hand = obs["proprio"]["ee_pos"]
        if state.points and np.linalg.norm(state.points[0] - hand) < NEAR_M:
            state.points.pop(0)
        velocity = np.clip(GAIN * (state.points[0] - hand), -1.0, 1.0) if state.points else np.zeros(3)
        return {"continuous": {"ee_twist": [*velocity, 0.0, 0.0, 0.0], "gripper": [1.0]}}

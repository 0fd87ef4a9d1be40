"""A policy good at one task without looking: it closes the drawer, and stands still in every other task."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

GAIN = 20.0
"""Commanded speed for each metre still to go, as a share of the largest speed."""
NEAR_M = 0.015
STUCK_M = 0.001
STUCK_STEPS = 8
CLOSED = 1.0

TASK = "drawer-close-v3"
POINTS = ((0.0, 0.44, 0.25), (0.0, 0.44, 0.09), (0.0, 0.85, 0.09))
"""Behind the open drawer, down, and forward against its front; metres."""


@dataclass
class Walk:
    """One episode: the points still to visit, and how long the hand has been held up on the way to the next."""

    points: list[Vector]
    last: Vector
    stuck: int = 0


class Policy:
    """Follows its points in its task; stands still elsewhere."""

    needs_images = False
    max_concurrent_episodes = 8

    def reset(self, task: dict[str, Any], seed: int) -> Walk:
        """Starts the walk, where there is one."""
        points = POINTS if task["task_name"] == TASK else ()
        return Walk([np.array(point) for point in points], last=np.full(3, np.inf))

    def act(self, obs: dict[str, Any], state: Walk) -> dict[str, Any]:
        """Moves toward the next point; a point is done when it is reached or the hand is held up by something."""
        hand = np.asarray(obs["proprio"]["ee_pos"])
        state.stuck = state.stuck + 1 if np.linalg.norm(hand - state.last) < STUCK_M else 0
        state.last = hand
        if state.points and (np.linalg.norm(state.points[0] - hand) < NEAR_M or state.stuck > STUCK_STEPS):
            state.points.pop(0)
            state.stuck = 0
        twist = np.clip(GAIN * (state.points[0] - hand), -1.0, 1.0) if state.points else np.zeros(3)
        return {"continuous": {"ee_twist": [*twist.tolist(), 0.0, 0.0, 0.0], "gripper": [CLOSED]}}

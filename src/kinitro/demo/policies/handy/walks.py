"""Acting without looking: the hand walks through points where the task's object must be.

Only the robot's own position guides it, so it does well where the place of things hardly matters, and fails where a
policy has to see.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Point = tuple[float, float, float]
Plan = tuple[list[Point], float]
"""Points to visit (metres) and the gripper's command on the way."""

GAIN = 20.0
"""Commanded speed for each metre still to go, as a share of the largest speed."""
NEAR_M = 0.015
STUCK_M = 0.001
STUCK_STEPS = 8
OPEN, CLOSED = 0.0, 1.0


@dataclass
class Walk:
    """One episode: the points still to visit, and how long the hand has been held up on the way to the next."""

    points: list[Vector]
    gripper: float
    last: Vector
    stuck: int = 0


def drawer_close() -> Plan:
    """Behind the open drawer, down, and forward against its front."""
    return [(0.0, 0.44, 0.25), (0.0, 0.44, 0.09), (0.0, 0.85, 0.09)], CLOSED


def drawer_open() -> Plan:
    """The handle is a bar 10 cm wide: hook it from above at the left, then at the right of where it may be."""
    points: list[Point] = []
    for x in (-0.05, 0.05):
        points += [(x, 0.74, 0.30), (x, 0.74, 0.13), (x, 0.50, 0.13), (x, 0.50, 0.30)]
    return points, OPEN


def button_press_topdown() -> Plan:
    """Press down, one place after another, wherever the button may be."""
    points: list[Point] = []
    for x in (0.0, 0.07, -0.07):
        for y in (0.83, 0.88):
            points += [(x, y, 0.42), (x, y, 0.255)]
        points += [(x, 0.88, 0.42)]
    return points, CLOSED


def reach() -> Plan:
    """Three columns through the space where the goal may be; touching it once is enough."""
    points: list[Point] = []
    for x, ends in ((-0.065, (0.36, 0.08)), (0.0, (0.08, 0.36)), (0.065, (0.36, 0.08))):
        points += [(x, 0.85, z) for z in ends]
    return points, OPEN


WALKS = {
    "drawer-close-v3": drawer_close,
    "drawer-open-v3": drawer_open,
    "button-press-topdown-v3": button_press_topdown,
    "reach-v3": reach,
}


class Walks:
    """Follows the walk of the task it is given; stands still in a task that it has none for."""

    def reset(self, task: str) -> Walk:
        """Starts the task's walk."""
        make = WALKS.get(task)
        points, gripper = make() if make else ([], OPEN)
        return Walk([np.array(point) for point in points], gripper, last=np.full(3, np.inf))

    def act(self, obs: dict[str, Any], state: Walk) -> dict[str, Any]:
        """Moves toward the next point; a point is done when it is reached or the hand is held up by something."""
        hand = np.asarray(obs["proprio"]["ee_pos"])
        state.stuck = state.stuck + 1 if np.linalg.norm(hand - state.last) < STUCK_M else 0
        state.last = hand
        if state.points and (np.linalg.norm(state.points[0] - hand) < NEAR_M or state.stuck > STUCK_STEPS):
            state.points.pop(0)
            state.stuck = 0
        twist = np.clip(GAIN * (state.points[0] - hand), -1.0, 1.0) if state.points else np.zeros(3)
        return {"continuous": {"ee_twist": [*twist.tolist(), 0.0, 0.0, 0.0], "gripper": [state.gripper]}}

"""Acting by sight: it finds the goal's marker and the puck in the two cameras' pictures, then reaches, pushes or
picks and places.

Classical vision only: a colour mask, the cameras' calibration, and the point where two rays come nearest.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

GAIN = 15.0
"""Commanded speed for each metre still to go, as a share of the largest speed."""
NEAR_M = 0.012
PATIENCE = 60
"""Steps after which a point that can't be reached counts as reached."""
FINGERS_M = np.array([0.0, 0.0, 0.045])
"""From the fingertips up to the hand, whose position is sensed."""
ABOVE_M = np.array([0.0, 0.0, 0.16])
GRASP_M = np.array([0.0, 0.0, 0.035])
"""The hand over the puck, and around it."""
OPEN, CLOSED = 0.0, 1.0
PUCK_Z_M = 0.02
PUCK_AREA_M = ((-0.14, 0.14), (0.55, 0.75))
"""Where on the table the puck may lie: x and y."""
ASIDE_M = np.array([0.0, 0.45, 0.30])
"""Here the arm hides nothing of that area from the front camera."""


@dataclass
class Leg:
    """Go to a point (None: stay) with the gripper at a command, then rest for some steps."""

    point: Vector | None
    gripper: float
    rest: int = 0
    steps: int = 0


@dataclass
class Memory:
    """One episode: its task, where the goal was seen, and the legs still to go."""

    task: str
    goal: Vector | None = None
    planned: bool = False
    legs: list[Leg] = field(default_factory=list)


class Sight:
    """Reaches, pushes, and picks and places."""

    tasks = ("reach-v3", "push-v3", "pick-place-v3")

    def reset(self, task: str) -> Memory:
        """Starts with open eyes: nothing is known yet."""
        return Memory(task, legs=[] if task == "reach-v3" else [Leg(ASIDE_M, OPEN)])

    def act(self, obs: dict[str, Any], state: Memory) -> dict[str, Any]:
        """Looks until it knows enough, then follows its plan."""
        hand = np.asarray(obs["proprio"]["ee_pos"])
        if state.goal is None:
            state.goal = find_goal(obs)
        if not state.legs and not state.planned and state.goal is not None:
            state.legs, state.planned = plan(state.task, state.goal, obs), True
        last_of_all = state.planned and len(state.legs) == 1
        if state.legs and not last_of_all and done(state.legs[0], hand):
            state.legs.pop(0)
        return command(hand, state.legs[0] if state.legs else Leg(None, OPEN))


def command(hand: Vector, leg: Leg) -> dict[str, Any]:
    """The action that follows this leg."""
    move = np.zeros(3) if leg.point is None else np.clip(GAIN * (leg.point - hand), -1.0, 1.0)
    return {"continuous": {"ee_twist": [*move.tolist(), 0.0, 0.0, 0.0], "gripper": [leg.gripper]}}


def done(leg: Leg, hand: Vector) -> bool:
    """Whether the point is reached and the rest is over."""
    leg.steps += 1
    if leg.point is not None and np.linalg.norm(leg.point - hand) > NEAR_M and leg.steps < PATIENCE:
        return False
    leg.rest -= 1
    return leg.rest < 0


def plan(task: str, goal: Vector, obs: dict[str, Any]) -> list[Leg]:
    """The legs that solve a task, from what is seen now."""
    if task == "reach-v3":
        return [Leg(goal + FINGERS_M, OPEN)]
    puck = find_puck(obs)
    if puck is None:
        return []
    above, at = puck + ABOVE_M, puck + GRASP_M
    grasp = [Leg(above, OPEN), Leg(at, OPEN, rest=4), Leg(at, CLOSED, rest=20)]
    if task == "push-v3":
        return [*grasp, Leg(np.array([goal[0], goal[1], at[2]]), CLOSED)]
    return [*grasp, Leg(above, CLOSED), Leg(goal + FINGERS_M, CLOSED)]


def find_goal(obs: dict[str, Any]) -> Vector | None:
    """Where the magenta marker is (metres), when both cameras see it."""
    rays = []
    for camera, image in obs["rgb"].items():
        red, green, blue = (image[..., channel].astype(int) for channel in range(3))
        pixels = np.argwhere((red > 180) & (green < 90) & (blue > 180))
        if len(pixels) < 3:
            return None
        rays.append(ray(obs, camera, pixels.mean(axis=0)))
    return nearest_point(rays)


def find_puck(obs: dict[str, Any]) -> Vector | None:
    """Where the dark red puck lies (metres), seen from the front."""
    image = obs["rgb"]["front"]
    red, green, blue = (image[..., channel].astype(int) for channel in range(3))
    places = []
    for pixel in np.argwhere((red > 40) & (red < 140) & (green < red * 0.3) & (blue < red * 0.3)):
        origin, direction = ray(obs, "front", pixel)
        place = origin + direction * (PUCK_Z_M - origin[2]) / direction[2]
        if all(low <= value <= high for value, (low, high) in zip(place, PUCK_AREA_M, strict=False)):
            places.append(place)
    return np.median(places, axis=0) if len(places) >= 2 else None


def ray(obs: dict[str, Any], camera: str, pixel: NDArray[Any]) -> tuple[Vector, Vector]:
    """Origin and direction, in the world, of what a pixel (row, column) shows."""
    row, column = pixel
    pose = np.asarray(obs["cam_extrinsics"][camera])
    inside = np.linalg.inv(np.asarray(obs["cam_intrinsics"][camera])) @ [column + 0.5, row + 0.5, 1.0]
    direction = pose[:3, :3] @ inside
    return pose[:3, 3], direction / np.linalg.norm(direction)


def nearest_point(rays: list[tuple[Vector, Vector]]) -> Vector:
    """The point with the least sum of squared distances to all rays."""
    across = [np.eye(3) - np.outer(direction, direction) for _, direction in rays]
    sides = [side @ origin for side, (origin, _) in zip(across, rays, strict=True)]
    return np.asarray(np.linalg.solve(np.sum(across, axis=0), np.sum(sides, axis=0)))

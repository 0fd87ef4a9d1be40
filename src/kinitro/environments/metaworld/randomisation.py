"""What a seed changes in the world besides where things stand: friction, damping, mass, cameras and light.

Always from nominal values, never on top of an earlier episode. Ranges are in docs/environments.md.
"""

from dataclasses import dataclass
from typing import Any, Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from kinitro.environments.base import Randomisation
from kinitro.environments.metaworld.cameras import slot
from kinitro.environments.metaworld.tasks import CAMERAS

Vector = NDArray[np.float64]

FRICTION: Final = (0.8, 1.25)
DAMPING: Final = (0.8, 1.25)
MASS: Final = (0.8, 1.25)
CAMERA_SHIFT_M: Final = 0.01
CAMERA_TURN_RAD: Final = 0.0175
LIGHT: Final = (0.7, 1.2)
LIGHT_TURN: Final = 0.2
"""Largest change of each component of a light's direction, a unit vector."""

NOMINAL_FRICTION: Final = frozenset({"soccer-v3"})
"""Where a change of even 2 % turns so many of the expert's shots into misses that the task would be another one."""

# Separates this stream from the one that MetaWorld seeds with the same number to place objects.
_STREAM: Final = 0x6B696E
_ROBOT_ROOT: Final = "base"


@dataclass(frozen=True)
class Draw:
    """One episode's world. Factors multiply nominal values; `camera_*` have one row a camera, `light_turn` is added."""

    friction: float
    damping: float
    mass: float
    light: float
    light_turn: Vector
    camera_shift_m: Vector
    camera_turn_rad: Vector


def draw(seed: int, level: Randomisation, task_name: str) -> Draw | None:
    """The world of this seed; None leaves it nominal. The factors are spread evenly in their logarithm."""
    if level is Randomisation.OFF:
        return None
    random = np.random.default_rng([_STREAM, seed])
    friction = _factor(random, FRICTION)
    return Draw(
        friction=1.0 if task_name in NOMINAL_FRICTION else friction,
        damping=_factor(random, DAMPING),
        mass=_factor(random, MASS),
        light=_factor(random, LIGHT),
        light_turn=random.uniform(-LIGHT_TURN, LIGHT_TURN, 3),
        camera_shift_m=random.uniform(-CAMERA_SHIFT_M, CAMERA_SHIFT_M, (len(CAMERAS), 3)),
        camera_turn_rad=random.uniform(-CAMERA_TURN_RAD, CAMERA_TURN_RAD, (len(CAMERAS), 3)),
    )


def apply(drawn: Draw, model: Any, scratch: Any) -> None:
    """Writes the draw over a nominal model (`mujoco.MjModel`); `scratch` is an `MjData` whose content is lost."""
    objects = _object_bodies(model)
    model.body_mass[objects] *= drawn.mass
    model.body_inertia[objects] *= drawn.mass
    model.dof_damping[np.isin(model.dof_bodyid, objects)] *= drawn.damping
    # Contact takes the larger friction of the two, so that only a factor on all of them is a factor on each contact.
    model.geom_friction[:] *= drawn.friction
    _apply_light(drawn, model)
    _apply_cameras(drawn, model)
    mujoco.mj_setConst(model, scratch)


def _apply_light(drawn: Draw, model: Any) -> None:
    model.light_diffuse[:] *= drawn.light
    model.light_dir[:] += drawn.light_turn
    model.light_dir[:] /= np.linalg.norm(model.light_dir, axis=1, keepdims=True)


def _apply_cameras(drawn: Draw, model: Any) -> None:
    for row, name in enumerate(CAMERAS):
        camera = model.camera(slot(name))
        camera.pos[:] += drawn.camera_shift_m[row]
        turned = np.empty(4)
        turn = np.array([1.0, *(drawn.camera_turn_rad[row] / 2.0)])
        mujoco.mju_mulQuat(turned, camera.quat, turn / np.linalg.norm(turn))
        camera.quat[:] = turned


def _object_bodies(model: Any) -> NDArray[np.intp]:
    """Every body but the world, the robot and the mocap body that leads its hand."""
    robot = model.body(_ROBOT_ROOT).id
    fixed = (model.body_rootid == robot) | (model.body_mocapid >= 0)
    fixed[0] = True
    return np.flatnonzero(~fixed)


def _factor(random: np.random.Generator, limits: tuple[float, float]) -> float:
    low, high = np.log(limits)
    return float(np.exp(random.uniform(low, high)))

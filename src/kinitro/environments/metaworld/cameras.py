"""Where the two cameras stand, and what they see as numbers: intrinsics and extrinsics."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from kinitro.environments.metaworld.tasks import CAMERAS

Vector = NDArray[np.float64]

# MuJoCo's cameras look along -z with y up; ours, as OpenCV's, look along +z with y down.
_FLIP: Final = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Pose:
    """A camera fixed in the world. `slot` is the camera of MetaWorld's model whose place it takes."""

    slot: str
    position_m: tuple[float, float, float]
    looks_at_m: tuple[float, float, float]
    fovy_deg: float


# One over the robot's right shoulder, one from the far side of the table: almost at right angles, so that a point in
# both images has a place in space; the arm hides little from either.
_POSES: Final[Mapping[str, Pose]] = MappingProxyType(
    {
        "corner": Pose("corner4", (0.85, 0.15, 0.75), (0.0, 0.65, 0.12), 48.0),
        "front": Pose("topview", (0.0, 1.35, 1.25), (0.0, 0.64, 0.10), 45.0),
    }
)


def slot(name: str) -> str:
    """The name in MetaWorld's model of one of our cameras."""
    return _POSES[name].slot


def place(model: Any) -> None:
    """Moves the cameras of a model (`mujoco.MjModel`) to their nominal poses."""
    for name in CAMERAS:
        pose = _POSES[name]
        camera = model.camera(pose.slot)
        camera.pos[:] = pose.position_m
        camera.quat[:] = _looking(np.array(pose.position_m), np.array(pose.looks_at_m))
        camera.fovy[:] = pose.fovy_deg


def intrinsics(model: Any, name: str, size: int) -> Vector:
    """3x3, pixels: u right, v down, the centre of the top left pixel at (0.5, 0.5)."""
    focal = 0.5 * size / np.tan(np.deg2rad(model.camera(slot(name)).fovy[0]) / 2.0)
    return np.array([[focal, 0.0, size / 2.0], [0.0, focal, size / 2.0], [0.0, 0.0, 1.0]])


def extrinsics(data: Any, name: str) -> Vector:
    """4x4, camera to world, metres; the camera's axes are x right, y down, z forward."""
    camera = data.camera(slot(name))
    matrix = np.eye(4)
    matrix[:3, :3] = camera.xmat.reshape(3, 3) @ _FLIP
    matrix[:3, 3] = camera.xpos
    return matrix


def _looking(position: Vector, target: Vector) -> Vector:
    """The quaternion (wxyz) of a camera that looks from one point to another with the horizon level."""
    back = (position - target) / np.linalg.norm(position - target)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(back, right), back], axis=1).ravel())
    return quaternion

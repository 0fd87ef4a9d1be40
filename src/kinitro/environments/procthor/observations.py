"""From AI2-THOR's metadata to what a robot in the house could sense. Pure. Nothing of the objects gets through here.

AI2-THOR's world is left-handed with y up and angles clockwise; ours is right-handed with z up: x stays, its z is our y,
its y our z.
"""

from collections.abc import Mapping
from math import cos, pi, radians, sin, tan
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinitro.environments.procthor.simulator import Frame
from kinitro.environments.procthor.spec import CAMERA, CONTROL_S
from kinitro.policy.messages import Observation

# Any in this file: AI2-THOR's metadata.

Vector = NDArray[np.float64]
_DECIMALS: Final = 6


def observe(frame: Frame, before: Frame, instruction: str, *, succeeded: bool) -> Observation:
    """What the policy gets. `before` is the frame of the step before; `succeeded` whether all commands were obeyed."""
    extra: dict[str, str | float] = {"instruction": instruction, "last_action_success": float(succeeded)}
    proprio = sense(frame.metadata, before.metadata)
    if frame.rgb is None:
        return Observation(proprio=proprio, extra=extra)
    return Observation(
        proprio=proprio,
        rgb={CAMERA: frame.rgb},
        depth={} if frame.depth is None else {CAMERA: frame.depth.astype(np.float32)},
        cam_intrinsics={CAMERA: intrinsics(frame.metadata, frame.rgb.shape[0])},
        cam_extrinsics={CAMERA: extrinsics(frame.metadata)},
        extra=extra,
    )


def sense(metadata: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Vector]:
    """Base pose, what the base did in the last step, and whether the hand holds something."""
    position, heading = to_ours(metadata["agent"]["position"]), _heading(metadata)
    values = {
        "base_pos": position,
        "base_quat": np.array([0.0, 0.0, sin(heading / 2), cos(heading / 2)]),
        "base_heading": np.array([heading]),
        "base_vel": _velocity(metadata, before),
        "gripper": np.array([float(any(found["isPickedUp"] for found in metadata["objects"]))]),
    }
    return {name: value.round(_DECIMALS) + 0.0 for name, value in values.items()}


def to_ours(point: Mapping[str, float]) -> Vector:
    """A point of AI2-THOR's in our axes."""
    return np.array([point["x"], point["z"], point["y"]])


def intrinsics(metadata: Mapping[str, Any], size_px: int) -> Vector:
    """3x3, pixels: u right, v down, the centre of the top left pixel at (0.5, 0.5)."""
    focal = 0.5 * size_px / tan(radians(metadata["fov"]) / 2)
    return np.array([[focal, 0.0, size_px / 2], [0.0, focal, size_px / 2], [0.0, 0.0, 1.0]])


def extrinsics(metadata: Mapping[str, Any]) -> Vector:
    """4x4, camera to world; the camera looks along +z with x right and y down."""
    yaw, down = radians(metadata["agent"]["rotation"]["y"]), radians(metadata["agent"]["cameraHorizon"])
    ahead = np.array([sin(yaw) * cos(down), cos(yaw) * cos(down), -sin(down)])
    right = np.array([cos(yaw), -sin(yaw), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack([right, np.cross(ahead, right), ahead])
    pose[:3, 3] = to_ours(metadata["cameraPosition"])
    return pose.round(_DECIMALS) + 0.0


def _heading(metadata: Mapping[str, Any]) -> float:
    """Radians counter-clockwise from the x axis, in (-pi, pi]."""
    return _wrapped(pi / 2 - radians(metadata["agent"]["rotation"]["y"]))


def _wrapped(angle: float) -> float:
    return pi - (pi - angle) % (2 * pi)


def _velocity(metadata: Mapping[str, Any], before: Mapping[str, Any]) -> Vector:
    """Forward and left, metres a second, and the turn, radians a second, as seen from the earlier pose."""
    moved = to_ours(metadata["agent"]["position"]) - to_ours(before["agent"]["position"])
    heading = _heading(before)
    forward = moved[0] * cos(heading) + moved[1] * sin(heading)
    left = -moved[0] * sin(heading) + moved[1] * cos(heading)
    return np.array([forward, left, _wrapped(_heading(metadata) - heading)]) / CONTROL_S

"""Draws the cameras of one simulator with one OpenGL context."""

import contextlib
from dataclasses import dataclass
from typing import Any, Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from kinitro.environments.base import RenderProfile
from kinitro.environments.gl import context_class, drawn_by
from kinitro.errors import EnvironmentFault
from kinitro.policy.messages import Image

Vector = NDArray[np.float64]

MARKER_RGBA: Final = np.array([1.0, 0.0, 1.0, 1.0], np.float32)
_BALL_M: Final = 0.025
_PIN_M: Final = 0.012
"""Radii."""
_MAX_GEOMS: Final = 1000
_FULL_SAMPLES: Final = 4
_FULL_SHADOWS: Final = 2048
# Multisampling, shadows and reflections are nine tenths of the cost of a picture on a CPU.
_COSTLY: Final = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION)


@dataclass(frozen=True)
class Marker:
    """Shows a goal: a ball that shines by itself and, where the ball is hidden, a pin that stands on it."""

    position_m: Vector
    pin_m: float = 0.0


class Renderer:
    """Square pictures of `size` pixels. Close it: a context that is left behind can blank the next one's images.

    Raises `EnvironmentFault` when no OpenGL library works.
    """

    def __init__(self, model: Any, size: int, profile: RenderProfile) -> None:
        self._model = model
        self._fast = profile is RenderProfile.FAST
        self._view = mujoco.MjrRect(0, 0, size, size)
        self._shape = (size, size, 3)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._options = mujoco.MjvOption()
        with contextlib.ExitStack() as undo:
            self._gl = context_class()(size, size)
            undo.callback(self._gl.free)
            self._gl.make_current()
            self.drawn_by = drawn_by()
            self._target = self._make_target(size)
            self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
            self._undo = undo.pop_all()

    def _make_target(self, size: int) -> Any:
        quality, buffers = self._model.vis.quality, self._model.vis.global_
        buffers.offwidth = buffers.offheight = size
        quality.offsamples, quality.shadowsize = (0, 0) if self._fast else (_FULL_SAMPLES, _FULL_SHADOWS)
        target = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, target)
        return target

    def draw(self, data: Any, camera: str, marker: Marker | None = None) -> Image:
        """One picture by a camera of the model, row 0 at the top. Raises `EnvironmentFault` when it is blank."""
        self._gl.make_current()
        self._camera.fixedcamid = self._model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._options, None, self._camera, everything, self._scene)
        if marker is not None:
            self._mark(marker)
        if self._fast:
            for flag in _COSTLY:
                self._scene.flags[flag] = 0
        mujoco.mjr_render(self._view, self._scene, self._target)
        upside_down: Image = np.empty(self._shape, np.uint8)
        mujoco.mjr_readPixels(upside_down, None, self._view, self._target)
        if upside_down.min() == upside_down.max():
            raise EnvironmentFault(f"Camera {camera!r} drew a blank image.", code="rendering")
        return np.ascontiguousarray(upside_down[::-1])

    def _mark(self, marker: Marker) -> None:
        self._add(mujoco.mjtGeom.mjGEOM_SPHERE, [_BALL_M, 0.0, 0.0], marker.position_m)
        if marker.pin_m > 0:
            middle = marker.position_m + np.array([0.0, 0.0, marker.pin_m / 2.0])
            self._add(mujoco.mjtGeom.mjGEOM_CAPSULE, [_PIN_M, marker.pin_m / 2.0, 0.0], middle)

    def _add(self, kind: mujoco.mjtGeom, size: list[float], position: Vector) -> None:
        geom = self._scene.geoms[self._scene.ngeom]
        mujoco.mjv_initGeom(geom, kind, np.array(size), position, np.eye(3).ravel(), MARKER_RGBA)
        geom.emission = 1.0
        self._scene.ngeom += 1

    def close(self) -> None:
        """Frees the context. Safe to call twice."""
        with self._undo.pop_all():
            self._target.free()

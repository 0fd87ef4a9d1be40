"""Which OpenGL library draws camera images without a display: found out in a child process, or forced by KINITRO_GL.

A broken driver can crash or hang whoever tries it; that must not be the process that runs the episode.
"""

import importlib
import os
import subprocess
import sys
from typing import Any, Final

from kinitro.errors import ConfigurationError, EnvironmentFault

FORCED: Final = "KINITRO_GL"
BACKENDS: Final = ("egl", "osmesa")
"""EGL first: it uses a GPU where there is one."""
PROBE_TIMEOUT_S: Final = 20.0

_PLATFORM: Final = "PYOPENGL_PLATFORM"
_ADVICE: Final = (
    "Install a software library with `apt-get install -y libosmesa6`, or libegl1 for a GPU; "
    "or run without camera images (KINITRO_EXECUTOR_USE_IMAGES=false)."
)
_PROBE: Final = """
import sys, mujoco, importlib
ball = '<light pos="0 0 3"/><geom size="1" rgba="1 0 0 1"/>'
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody>' + ball + '</worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
context = importlib.import_module('mujoco.' + sys.argv[1]).GLContext(64, 64)
context.make_current()
target = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, target)
scene, camera, view = mujoco.MjvScene(model, 10), mujoco.MjvCamera(), mujoco.MjrRect(0, 0, 64, 64)
camera.distance = 4
mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
mujoco.mjr_render(view, scene, target)
import numpy
image = numpy.zeros((64, 64, 3), numpy.uint8)
mujoco.mjr_readPixels(image, None, view, target)
target.free()
context.free()
sys.exit(0 if image.std() > 1 else 'it draws nothing but blank images')
"""


def context_class() -> Any:  # a class of mujoco's, which has no types
    """MuJoCo's `GLContext` for the library that works here. One process uses one library, whichever it took first.

    Raises `ConfigurationError` when KINITRO_GL names none that exists, `EnvironmentFault` when none works.
    """
    backend = os.environ.get(_PLATFORM, "").lower()
    if backend not in BACKENDS:
        backend = working_library()
    try:
        return importlib.import_module(f"mujoco.{backend}").GLContext
    except (ImportError, AttributeError, OSError) as error:
        raise _unusable({backend: str(error)}) from error


def drawn_by() -> str:
    """Names what draws in the current context: library, driver and version. Only for who has one."""
    gl: Any = importlib.import_module("OpenGL.GL")  # looks for a library when it is first imported
    driver, version = (gl.glGetString(name) or b"" for name in (gl.GL_RENDERER, gl.GL_VERSION))
    return f"{os.environ.get(_PLATFORM, '')}, {driver.decode(errors='replace')}, {version.decode(errors='replace')}"


def working_library() -> str:
    """`egl` or `osmesa`, whichever draws here. Raises like `context_class`."""
    forced = os.environ.get(FORCED, "").lower()
    if forced and forced not in BACKENDS:
        raise ConfigurationError(f"{FORCED}={forced} is not a way to draw.", advice=f"Use {' or '.join(BACKENDS)}.")
    reasons: dict[str, str] = {}
    for backend in (forced,) if forced else BACKENDS:
        reason = probe(backend)
        if reason is None:
            return backend
        reasons[backend] = reason
    raise _unusable(reasons)


def probe(backend: str) -> str | None:
    """Draws one picture in a child process with `egl` or `osmesa`; the reason when it can't, else None."""
    environment = {name: value for name, value in os.environ.items() if name != _PLATFORM} | {"MUJOCO_GL": "disable"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, backend],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no picture within {PROBE_TIMEOUT_S:g} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"it crashed (signal {-done.returncode})"
    lines = [line for line in done.stderr.splitlines() if line and not line[0].isspace()]
    return lines[-1] if lines else f"exit status {done.returncode}"


def _unusable(reasons: dict[str, str]) -> EnvironmentFault:
    tried = "; ".join(f"{backend}: {reason}" for backend, reason in reasons.items())
    return EnvironmentFault(f"No OpenGL library draws camera images here ({tried}).", code="gl_missing", advice=_ADVICE)

"""The MetaWorld v3 family: fifty tabletop tasks of one Sawyer arm, simulated by MuJoCo."""

import os

from kinitro.environments.base import Environment, EnvironmentOptions, EnvironmentSpec
from kinitro.environments.metaworld.tasks import specs
from kinitro.errors import ConfigurationError, how_to_install

__all__ = ["build", "specs"]


def build(spec: EnvironmentSpec, options: EnvironmentOptions) -> Environment:
    """Makes the simulator of one task. Raises `ConfigurationError` when the packages are not installed."""
    # MuJoCo picks an OpenGL library when it is first imported. Rendering chooses its own, later, and only when asked
    # for images, so that a machine without any GL library still runs episodes without them.
    os.environ.setdefault("MUJOCO_GL", "disable")
    try:
        from kinitro.environments.metaworld.adapter import MetaWorldEnvironment  # noqa: PLC0415 - the reason above
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{spec.env_id} needs the Python package {error.name!r}, which is not installed.",
            advice=how_to_install("metaworld"),
        ) from error
    return MetaWorldEnvironment(spec, options)

"""The ProcTHOR family: household tasks in houses drawn from a seed, simulated by AI2-THOR."""

import platform

from kinitro.environments.base import Environment, EnvironmentOptions, EnvironmentSpec
from kinitro.environments.procthor.spec import specs
from kinitro.errors import ConfigurationError, how_to_install

__all__ = ["build", "specs"]


def build(spec: EnvironmentSpec, options: EnvironmentOptions) -> Environment:
    """Makes the environment on AI2-THOR's own player.

    Raises `ConfigurationError` when the machine can't run it, or the package or the Unity build is missing.
    """
    from importlib.util import find_spec  # noqa: PLC0415 - the catalogue imports this module

    from kinitro.environments.procthor.launch import check_machine, unity_launch  # noqa: PLC0415 - as above

    check_machine(platform.system(), platform.machine())
    if find_spec("ai2thor") is None:
        raise ConfigurationError(
            f"{spec.env_id} needs the Python package 'ai2thor', which is not installed.",
            advice=how_to_install("procthor"),
        )
    from kinitro.environments.procthor.adapter import ProcThorEnvironment  # noqa: PLC0415 - as above

    return ProcThorEnvironment(spec, options, unity_launch())

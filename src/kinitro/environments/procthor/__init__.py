"""The ProcTHOR family: household tasks in houses drawn from a seed, simulated by AI2-THOR."""

from kinitro.environments.base import Environment, EnvironmentOptions, EnvironmentSpec
from kinitro.environments.procthor.spec import specs
from kinitro.errors import ConfigurationError

__all__ = ["build", "specs"]


def build(spec: EnvironmentSpec, options: EnvironmentOptions) -> Environment:
    """Makes the environment on AI2-THOR's own player.

    Raises `ConfigurationError` when the package or the Unity build is missing, or the machine can't run it.
    """
    from importlib.util import find_spec  # noqa: PLC0415 - the catalogue imports this module

    if find_spec("ai2thor") is None:
        raise ConfigurationError(
            f"{spec.env_id} needs the Python package 'ai2thor', which is not installed.",
            advice="Install the simulator: pip install 'kinitro[procthor]'.",
        )
    from kinitro.environments.procthor.adapter import ProcThorEnvironment  # noqa: PLC0415 - as above
    from kinitro.environments.procthor.launch import unity_launch  # noqa: PLC0415 - as above

    return ProcThorEnvironment(spec, options, unity_launch())

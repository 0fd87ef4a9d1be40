"""What an environment server says of itself in every episode's record: whoever replays it needs the same."""

import platform
from functools import cache
from pathlib import Path

from kinitro import __version__
from kinitro.environments.base import Environment, EnvironmentOptions
from kinitro.schemas import Simulation

_CPU_INFO = Path("/proc/cpuinfo")
_LONGEST = 300


def describe(environment: Environment, options: EnvironmentOptions) -> Simulation:
    """What this process runs an environment with, and on."""
    stack = {"python": platform.python_version(), "processor": processor(), **environment.stack()}
    return Simulation(
        kinitro=__version__,
        architecture=platform.machine(),
        randomisation=options.randomisation.value,
        render_profile=options.render_profile.value,
        images=options.images,
        stack={name: version[:_LONGEST] for name, version in stack.items()},
    )


@cache
def processor() -> str:
    """The processor's own name, as far as the system tells: libraries choose their instructions by it."""
    try:
        lines = _CPU_INFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next((name for name in named if name), platform.processor() or "unknown")

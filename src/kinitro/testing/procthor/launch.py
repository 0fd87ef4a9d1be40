"""How tests put the ProcTHOR environment on the stand-in. No setting or variable leads here."""

import shlex
import sys
from dataclasses import replace

from kinitro.environments.base import STAND_IN_SUFFIX, Environment, EnvironmentOptions, EnvironmentSpec
from kinitro.environments.procthor.adapter import ProcThorEnvironment
from kinitro.environments.procthor.launch import PlayerLaunch, ServerType
from kinitro.environments.procthor.spec import specs

_PLAYER = f"{shlex.quote(sys.executable)} -P -m kinitro.testing.procthor.player"


def stand_in_launch(server: ServerType = ServerType.FIFO, **changes: object) -> PlayerLaunch:
    """The stand-in as a player."""
    chosen = {
        "server": server,
        "needs_display": False,
        "stand_in": True,
        "start_timeout_s": 30.0,
        "step_timeout_s": 20.0,
    }
    return PlayerLaunch(_PLAYER, **(chosen | changes))  # type: ignore[arg-type] # a test's own changes


def stand_in_specs() -> tuple[EnvironmentSpec, ...]:
    """The family as it is on the stand-in: its version says so, and evidence on it counts for nothing else."""
    return tuple(replace(spec, version=spec.version + STAND_IN_SUFFIX) for spec in specs())


def build_on_stand_in(spec: EnvironmentSpec, options: EnvironmentOptions) -> Environment:
    """The environment on the stand-in; `spec` is one of `stand_in_specs`."""
    plain = next(each for each in specs() if each.env_id == spec.env_id)
    return ProcThorEnvironment(plain, options, stand_in_launch())

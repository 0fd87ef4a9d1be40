"""An environment server of the line world that can be broken from outside: `python line_server.py HOST PORT SWITCHES`.

In the folder SWITCHES, a file `broken` makes every simulator fail, `hung` makes it hang, `slow` makes steps slow.
"""

import os
import sys
import time
from pathlib import Path

import uvicorn

from kinitro.environments.base import EnvironmentOptions, EnvironmentSpec, Step
from kinitro.environments.protocol import SECRET_VARIABLE
from kinitro.environments.server import Catalogue, build_app
from kinitro.policy.messages import Action, Observation
from kinitro.testing.line_world import LINE_REACH, LineWorld, find

SWITCHES = Path(sys.argv[3])


class SwitchedWorld(LineWorld):
    def reset(self, seed: int) -> Observation:
        if (SWITCHES / "broken").exists():
            raise ZeroDivisionError("deep inside the simulator")
        if (SWITCHES / "hung").exists():
            time.sleep(600)
        if (SWITCHES / "dies").exists():
            os._exit(9)
        return super().reset(seed)

    def step(self, action: Action) -> Step:
        if (SWITCHES / "slow").exists():
            time.sleep(0.02)
        return super().step(action)


def build(spec: EnvironmentSpec, options: EnvironmentOptions) -> SwitchedWorld:
    return SwitchedWorld(spec, options)


app = build_app(Catalogue(specs=lambda: (LINE_REACH,), find=find, build=build), os.environ.pop(SECRET_VARIABLE))
uvicorn.run(app, host=sys.argv[1], port=int(sys.argv[2]), log_level="warning", access_log=False, ws="none")

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kinitro.environments.base import EnvironmentOptions
from kinitro.environments.procthor.adapter import ProcThorEnvironment
from kinitro.environments.procthor.launch import PlayerLaunch
from kinitro.environments.procthor.spec import specs
from kinitro.testing.procthor import stand_in_launch

BREAKING = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).with_name('breaking_player.py')))}"
MakeEnvironment = Callable[..., ProcThorEnvironment]


@pytest.fixture
def make() -> Iterator[MakeEnvironment]:
    """Makes environments on the stand-in, and ends them."""
    made = []

    def build(*, images: bool = False, depth: bool = False, launch: PlayerLaunch | None = None) -> ProcThorEnvironment:
        options = EnvironmentOptions(images=images, depth=depth)
        made.append(ProcThorEnvironment(specs()[0], options, launch or stand_in_launch()))
        return made[-1]

    yield build
    for environment in made:
        environment.close()


def session(process_id: int) -> dict[int, str]:
    """Every process of this session, zombies too: its id and its command."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if int(rest.split()[3]) == process_id:
            found[int(entry.name)] = f"{name} {rest.split()[0]}"
    return found

"""What an operator's machine must show once before ProcTHOR is scored there: `kinitro env test --unity`.

Nothing of this can be shown without AI2-THOR's Unity build. When the player does not start, what follows is skipped.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from math import pi, radians
from typing import Any, Final

import numpy as np

from kinitro.environments.base import EnvironmentOptions
from kinitro.environments.procthor.adapter import ProcThorEnvironment
from kinitro.environments.procthor.assets import Ability
from kinitro.environments.procthor.furnishing import Item
from kinitro.environments.procthor.launch import PlayerLaunch
from kinitro.environments.procthor.spec import CAMERA, IMAGE_SIZE, TURN_DEG, Interact, Nav, specs
from kinitro.environments.procthor.tasks import TaskType, draw_task
from kinitro.errors import ConfigurationError, EnvironmentFault
from kinitro.policy.messages import Action, Observation

# Any in this file: AI2-THOR's metadata.

_SIZE_M: Final = 0.05
_SETTLED_M: Final = 0.1
_STEPS: Final = 400
_BLANK: Final = 5.0


class Verdict(StrEnum):
    """What became of one check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """One line of the checklist, and what was seen."""

    name: str
    verdict: Verdict
    detail: str


class _WrongError(Exception):
    """The check saw something else than it should."""


def run_checklist(launch: PlayerLaunch) -> Iterator[Check]:
    """Every check, as it is done."""
    environment = ProcThorEnvironment(specs()[0], EnvironmentOptions(depth=True), launch)
    broken = ""
    try:
        for name, look in _CHECKS.items():
            done = Check(name, Verdict.SKIPPED, broken) if broken else _look(name, look, environment)
            if done.verdict is Verdict.FAILED and name == _FIRST:
                broken = "the player did not start"
            yield done
    finally:
        environment.close()


def _look(name: str, look: Callable[[ProcThorEnvironment], str], environment: ProcThorEnvironment) -> Check:
    try:
        return Check(name, Verdict.PASSED, look(environment))
    except (_WrongError, EnvironmentFault, ConfigurationError) as error:
        environment.close()
        return Check(name, Verdict.FAILED, str(error).partition("\n")[0])


def _expect(holds: object, otherwise: str) -> None:
    if not holds:
        raise _WrongError(otherwise)


def _starts(environment: ProcThorEnvironment) -> str:
    began = time.monotonic()
    environment.reset(0)
    return f"player started and first house built in {time.monotonic() - began:.1f} s"


def _is_real(environment: ProcThorEnvironment) -> str:
    _expect(not environment.metadata.get("standIn"), "the player is a stand-in: nothing here is about AI2-THOR")
    return f"scene {environment.metadata['sceneName']}"


def _houses(environment: ProcThorEnvironment) -> str:
    for seed in range(12):
        environment.reset(seed)
    return "12 of 12 houses built, each with its task open and possible"


def _objects(environment: ProcThorEnvironment) -> str:
    """Every object of the house is there, can do what our table says, and has the size that it says."""
    count = 0
    for seed in range(3):
        environment.reset(seed)
        found = {each["objectId"]: each for each in environment.metadata["objects"]}
        for item in environment.task.house.items:
            _expect(item.id in found, f"{item.id} of seed {seed} is not among the player's objects")
            _check_object(item, found[item.id])
            count += 1
    return f"{count} objects as in our table: type, abilities, size within {_SIZE_M * 100:.0f} cm"


def _check_object(item: Item, found: Mapping[str, Any]) -> None:
    able, surface = item.asset.abilities, item.asset.surface
    _expect(found["objectType"] == item.asset.object_type, f"{item.id} is a {found['objectType']}")
    _expect(Ability.PICK_UP not in able or found["pickupable"], f"{item.asset.asset_id} is not pickupable")
    _expect(Ability.OPEN not in able or found["openable"], f"{item.asset.asset_id} is not openable")
    _expect(Ability.TOGGLE not in able or found["toggleable"], f"{item.asset.asset_id} is not toggleable")
    _expect(not surface or found["receptacle"], f"{item.asset.asset_id} is no receptacle")
    size = found["axisAlignedBoundingBox"]["size"]
    width, depth = item.asset.footprint_m(item.rotation)
    wrong = max(abs(size["x"] - width), abs(size["y"] - item.asset.size_m[1]), abs(size["z"] - depth))
    opens = Ability.OPEN in able and found["isOpen"]
    _expect(opens or wrong <= _SIZE_M, f"{item.asset.asset_id} is {wrong:.2f} m off its size in our table")


def _settling(environment: ProcThorEnvironment) -> str:
    worst = 0.0
    for seed in range(3):
        environment.reset(seed)
        found = {each["objectId"]: each for each in environment.metadata["objects"]}
        for item in environment.task.house.items:
            seen = found[item.id]
            middle = seen["axisAlignedBoundingBox"]["center"]
            off = float(np.hypot(middle["x"] - item.x, middle["z"] - item.z))
            worst = max(worst, 0.0 if seen["isOpen"] else off)
            _expect(off <= _SETTLED_M or seen["isOpen"], f"{item.id} of seed {seed} lies {off:.2f} m from its place")
            on = item.support is None or item.support.id in (seen["parentReceptacles"] or ())
            _expect(on, f"{item.id} of seed {seed} is not on {item.support.id if item.support else 'the floor'}")
    return f"everything rests where it was put (at most {worst * 100:.0f} cm off), on what it was put on"


def _moving(environment: ProcThorEnvironment) -> str:
    """Headings and steps as docs/procthor.md defines them."""
    before = environment.reset(1).proprio
    turned = _after(environment, Nav.TURN_LEFT).proprio
    change = (turned["base_heading"][0] - before["base_heading"][0] + pi) % (2 * pi) - pi
    _expect(abs(change - radians(TURN_DEG)) < 0.02, f"turning left changed the heading by {change:.3f} rad")
    for move, forward, left in (
        (Nav.AHEAD, 0.5, 0.0),
        (Nav.BACK, -0.5, 0.0),
        (Nav.LEFT, 0.0, 0.5),
        (Nav.RIGHT, 0.0, -0.5),
    ):
        seen = _after(environment, move)
        if seen.extra["last_action_success"]:
            _expect(
                np.allclose(seen.proprio["base_vel"][:2], (forward, left), atol=0.02),
                f"{move.name} moved the base by {seen.proprio['base_vel']} m/s",
            )
    return "turning and stepping agree with heading and base_vel"


def _rooms(environment: ProcThorEnvironment) -> str:
    """The agent can stand wherever our own map says, in every room."""
    wrong = total = 0
    for seed in range(3):
        environment.reset(seed)
        for place in environment.task.house.reach.places[::15]:
            total += 1
            wrong += not environment.stands_at(*place)
    _expect(wrong <= total * 0.02, f"the agent does not fit {wrong} of {total} places of our map")
    return f"the agent fits {total - wrong} of {total} places of our map"


def _pictures(environment: ProcThorEnvironment) -> str:
    seen = environment.reset(2)
    rgb, depth = seen.rgb[CAMERA], seen.depth[CAMERA]
    _expect(rgb.shape == (IMAGE_SIZE, IMAGE_SIZE, 3), f"the picture has shape {rgb.shape}")
    _expect(float(rgb.std()) > _BLANK, "the picture is blank")
    _expect(bool(np.isfinite(depth).all()) and 0.0 < float(np.median(depth)) < 20.0, "the depth is not in metres")
    return f"{IMAGE_SIZE} x {IMAGE_SIZE} pixels, not blank; median depth {float(np.median(depth)):.1f} m"


def _refusals(environment: ProcThorEnvironment) -> str:
    environment.reset(3)
    sky = Action(continuous={"aim": np.array([0.5, 0.0])}, discrete={"interact": int(Interact.PICK_UP)})
    step = environment.step(sky)
    _expect(not step.observation.extra["last_action_success"], "picking up the ceiling succeeded")
    return "a command that can't be obeyed is told, and breaks nothing"


def _solves(task_type: TaskType) -> Callable[[ProcThorEnvironment], str]:
    def look(environment: ProcThorEnvironment) -> str:
        seeds = [seed for seed in range(200) if draw_task(seed).goal.task_type is task_type][:2]
        solved = [seed for seed in seeds if _expert_solves(environment, seed)]
        _expect(solved, f"the expert solves none of seeds {seeds}")
        return f"the expert solves {len(solved)} of {len(seeds)} by aiming at pixels"

    return look


def _expert_solves(environment: ProcThorEnvironment, seed: int) -> bool:
    environment.reset(seed)
    return any(environment.step(environment.expert_action()).success for _ in range(_STEPS))


def _repeats(environment: ProcThorEnvironment) -> str:
    states = []
    for _ in range(2):
        environment.reset(4)
        for _ in range(20):
            environment.step(environment.expert_action())
        states.append(environment.state())
    _expect(states[0] == states[1], "the same seed and actions ended in two states")
    return "the same seed and actions end in the same state"


def _dies(environment: ProcThorEnvironment) -> str:
    environment.reset(5)
    began = time.monotonic()
    with suppress(ProcessLookupError):
        os.kill(environment.player_id(), signal.SIGKILL)
    try:
        environment.step(Action())
    except EnvironmentFault as fault:
        took = time.monotonic() - began
        _expect(took < 10, f"it took {took:.0f} s to notice that the player was killed")
        environment.close()
        return f"a killed player is noticed after {took:.1f} s: {fault.code}"
    raise _WrongError("a killed player answered")


_FIRST: Final = "the player starts"
_CHECKS: Final[Mapping[str, Callable[[ProcThorEnvironment], str]]] = {
    _FIRST: _starts,
    "it is AI2-THOR": _is_real,
    "houses are accepted": _houses,
    "objects are as our table says": _objects,
    "objects stay where they are put": _settling,
    "moving and turning": _moving,
    "rooms can be walked": _rooms,
    "pictures and depth": _pictures,
    "refused commands": _refusals,
    **{f"task {task_type.value}": _solves(task_type) for task_type in TaskType},
    "same seed, same episode": _repeats,
    "a player that dies": _dies,
}


def _after(environment: ProcThorEnvironment, move: Nav) -> Observation:
    return environment.step(Action(discrete={"nav": int(move)})).observation

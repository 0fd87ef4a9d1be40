"""Houses for AI2-THOR, drawn from a seed: floor plan, furniture, the house's JSON (schema 1.0.0) and its digest.

The same seed gives the same bytes in every process: no set or hash order, no global random state, and a stream of
draws that no library may change (`draws.Draws`).
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kinitro.environments.procthor.draws import Draws
from kinitro.environments.procthor.floorplan import FloorPlan, draw_floor_plan
from kinitro.environments.procthor.furnishing import Furnisher, Item, WallItem
from kinitro.environments.procthor.reach import Place, Reach, free_places, walk
from kinitro.environments.procthor.schema import house_document
from kinitro.environments.procthor.validation import problems
from kinitro.errors import EnvironmentFault

# Any in this file: the house as a JSON document.

_TRIES: Final = 200
_STREAM: Final = 0x686F757365  # "house"


@dataclass(frozen=True)
class AgentPose:
    """Where the agent starts: on the grid, looking along an axis. Degrees clockwise, 0 looks along +z."""

    x: float
    z: float
    heading_deg: int


@dataclass(frozen=True)
class States:
    """What is open and what is on at the start, by item id; everything else is closed and off."""

    opened: tuple[str, ...] = ()
    on: tuple[str, ...] = ()


@dataclass(frozen=True)
class House:
    """One house, not yet anybody's task."""

    seed: int
    plan: FloorPlan
    floor: tuple[Item, ...]
    small: tuple[Item, ...]
    on_walls: tuple[WallItem, ...]
    start: AgentPose
    reach: Reach
    """Where the agent can get to."""
    skybox: str
    materials: Mapping[str, str]

    @property
    def items(self) -> tuple[Item, ...]:
        """What the agent may act on or put things on."""
        return (*self.floor, *self.small)

    def document(self, states: States = States()) -> dict[str, Any]:
        """The house as AI2-THOR's CreateHouse takes it, with these initial states."""
        return house_document(self, states)


def digest(document: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a house."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def draw_house(seed: int, suits: Callable[[House], bool] = lambda _house: True) -> House:
    """The first valid house of this seed's stream that suits. Takes about 20 ms.

    Raises `EnvironmentFault` (`no_house`) when none of two hundred does: a bug in the generator.
    """
    draws = Draws(_STREAM, seed)
    room_count = 2 + draws.below(4)
    for _ in range(_TRIES):
        house = _attempt(seed, draws, room_count)
        if house is not None and next(problems(house), None) is None and suits(house):
            return house
    raise EnvironmentFault(f"None of {_TRIES} houses of seed {seed} suits the task.", code="no_house")


def _attempt(seed: int, draws: Draws, room_count: int) -> House | None:
    plan = draw_floor_plan(draws, room_count)
    if plan is None:
        return None
    furnisher = Furnisher(plan, draws)
    if not furnisher.furnish():
        return None
    floor = tuple(furnisher.floor)
    free = free_places(plan, floor)
    start = _start(draws, plan, free)
    if start is None:
        return None
    return House(
        seed,
        plan,
        floor,
        tuple(furnisher.small),
        tuple(furnisher.on_walls),
        start,
        walk(free, (start.x, start.z)),
        draws.pick(_SKYBOXES),
        {room.id: draws.pick(_FLOORS) for room in plan.rooms} | {"walls": draws.pick(_WALLS)},
    )


def _start(draws: Draws, plan: FloorPlan, free: list[Place]) -> AgentPose | None:
    room = draws.pick(plan.rooms).rect.grown(-0.3)
    places = [place for place in free if room.holds_point(*place)]
    if not places:
        return None
    x, z = draws.pick(places)
    return AgentPose(x, z, draws.pick((0, 90, 180, 270)))


_SKYBOXES: Final = ("Sky1", "SkyAlbany", "SkyGarden", "SkyMountain", "SkyOakland", "SkySFDowntown")
_FLOORS: Final = ("BedroomFloor1", "DarkWoodFloors", "GreyFloor", "OrangeWood", "MediumWoodSmooth", "ConcreteFloor")
_WALLS: Final = ("Drywall", "DrywallBeige", "DrywallEggshell", "DrywallGreen", "DrywallOrange", "CreameDrywall")

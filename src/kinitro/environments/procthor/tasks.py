"""The six household tasks: how one is chosen for a house, its sentence, and what counts as done. Pure.

What is possible and what is done is read from AI2-THOR's object metadata (https://ai2thor.allenai.org, "Object State
Changes", "Interactive Physics"), never from our own idea of the house.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from kinitro.environments.procthor.assets import GOES_ON, Ability
from kinitro.environments.procthor.draws import Draws
from kinitro.environments.procthor.furnishing import Item
from kinitro.environments.procthor.houses import House, States, draw_house

# Any in this file: object metadata as AI2-THOR sends it.

Objects = Iterable[Mapping[str, Any]]
_STREAM: Final = 0x7461736B  # "task"
_ROOM_NOUNS: Final = {
    "Kitchen": "kitchen",
    "LivingRoom": "living room",
    "Bedroom": "bedroom",
    "Bathroom": "bathroom",
}


class TaskType(StrEnum):
    """What is to be done."""

    PICKUP = "pickup"
    PLACE = "place"
    OPEN = "open"
    CLOSE = "close"
    TOGGLE_ON = "toggle_on"
    TOGGLE_OFF = "toggle_off"


@dataclass(frozen=True)
class Goal:
    """What is to be done, with which object, and where to (PLACE alone). Policies never see these ids."""

    task_type: TaskType
    target: str
    receptacle: str | None = None


@dataclass(frozen=True)
class Task:
    """One episode: a house, the states it starts in, what to do there, and the sentence that says so."""

    house: House
    states: States
    goal: Goal
    instruction: str

    def document(self) -> dict[str, Any]:
        """The house with its initial states, as CreateHouse takes it."""
        return self.house.document(self.states)


# What is possible and what is done


def success(goal: Goal, objects: Objects) -> bool:
    """Whether the goal holds now. False when the object is gone (sliced into others, say)."""
    found = _find(objects, goal.target)
    return found is not None and _DONE[goal.task_type](found, goal.receptacle)


_DONE: Final[Mapping[TaskType, Callable[[Mapping[str, Any], str | None], bool]]] = {
    TaskType.PICKUP: lambda found, _: bool(found["isPickedUp"]),
    TaskType.PLACE: lambda found, place: not found["isPickedUp"] and place in (found["parentReceptacles"] or ()),
    TaskType.OPEN: lambda found, _: bool(found["isOpen"]),
    TaskType.CLOSE: lambda found, _: not found["isOpen"],
    TaskType.TOGGLE_ON: lambda found, _: bool(found["isToggled"]),
    TaskType.TOGGLE_OFF: lambda found, _: not found["isToggled"],
}


def obstacle(goal: Goal, objects: Objects) -> str | None:
    """Why AI2-THOR would not let anyone reach the goal from this state, or None when it would.

    `isOpen` decides, not `openness`: recorded objects are known that are closed with an openness of 1.
    """
    known = list(objects)
    target = _find(known, goal.target)
    if target is None:
        return f"there is no {goal.target}"
    match goal.task_type:
        case TaskType.PICKUP:
            return _not_movable(target, known)
        case TaskType.PLACE:
            return _not_movable(target, known) or _no_receptacle(goal, known)
        case TaskType.OPEN | TaskType.CLOSE:
            return None if target["openable"] else f"{goal.target} is not openable"
        case TaskType.TOGGLE_ON | TaskType.TOGGLE_OFF:
            if not target["toggleable"]:
                return f"{goal.target} is not toggleable"
            return f"{goal.target} is broken" if target["isBroken"] else None


def _not_movable(target: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> str | None:
    if not target["pickupable"]:
        return f"{target['objectId']} is not pickupable"
    held = next((found["objectId"] for found in objects if found["isPickedUp"]), target["objectId"])
    return None if held == target["objectId"] else f"the hand already holds {held}"


def _no_receptacle(goal: Goal, objects: Sequence[Mapping[str, Any]]) -> str | None:
    if goal.receptacle is None or goal.receptacle == goal.target:
        return "it names no place to put the object"
    place = _find(objects, goal.receptacle)
    if place is None:
        return f"there is no {goal.receptacle}"
    return None if place["receptacle"] else f"{goal.receptacle} is no receptacle"


def _find(objects: Objects, object_id: str | None) -> Mapping[str, Any] | None:
    return next((found for found in objects if found["objectId"] == object_id), None)


# How one is chosen


def draw_task(seed: int) -> Task:
    """The task of this seed: each type with the same chance, the house chosen so that the type is possible in it.

    Raises `EnvironmentFault` when two hundred houses in a row have no such thing; never falls back to another type.
    """
    draws = Draws(_STREAM, seed)
    task_type = draws.pick(tuple(TaskType))
    house = draw_house(seed, lambda house: bool(_choices(house, task_type)))
    goal = draws.pick(_choices(house, task_type))
    return Task(house, _states(draws, house, goal), goal, _sentence(house, goal))


def _choices(house: House, task_type: TaskType) -> list[Goal]:
    """Every goal of this type whose sentence fits one thing in the house alone."""
    described = Counter(_description(item) for item in house.items)
    named = [item for item in house.items if described[_description(item)] == 1]
    able = [item for item in named if _ABILITY[task_type] in item.asset.abilities]
    if task_type is not TaskType.PLACE:
        return [Goal(task_type, item.id) for item in able]
    places = [item for item in named if item.asset.surface]
    return [
        Goal(task_type, item.id, place.id)
        for item in able
        for place in places
        if place is not item.support and place.asset.object_type in GOES_ON[item.asset.object_type]
    ]


_ABILITY: Final[Mapping[TaskType, Ability]] = {
    TaskType.PICKUP: Ability.PICK_UP,
    TaskType.PLACE: Ability.PICK_UP,
    TaskType.OPEN: Ability.OPEN,
    TaskType.CLOSE: Ability.OPEN,
    TaskType.TOGGLE_ON: Ability.TOGGLE,
    TaskType.TOGGLE_OFF: Ability.TOGGLE,
}


def _states(draws: Draws, house: House, goal: Goal) -> States:
    """The goal's object in the opposite of what is asked for; of the other lamps and screens some are on."""
    lit = tuple(
        item.id
        for item in house.items
        if Ability.TOGGLE in item.asset.abilities and item.id != goal.target and draws.chance(0.3)
    )
    return States(
        opened=(goal.target,) if goal.task_type is TaskType.CLOSE else (),
        on=(*lit, goal.target) if goal.task_type is TaskType.TOGGLE_OFF else lit,
    )


# The sentence


def _sentence(house: House, goal: Goal) -> str:
    by_id = {item.id: item for item in house.items}
    thing = _description(by_id[goal.target])
    return _VERBS[goal.task_type](thing, _description(by_id[goal.receptacle]) if goal.receptacle else "")


_VERBS: Final[Mapping[TaskType, Callable[[str, str], str]]] = {
    TaskType.PICKUP: lambda thing, _place: f"Pick up {thing}.",
    TaskType.PLACE: lambda thing, place: f"Take {thing} and put it on {place}.",
    TaskType.OPEN: lambda thing, _place: f"Open {thing}.",
    TaskType.CLOSE: lambda thing, _place: f"Close {thing}.",
    TaskType.TOGGLE_ON: lambda thing, _place: f"Turn on {thing}.",
    TaskType.TOGGLE_OFF: lambda thing, _place: f"Turn off {thing}.",
}


def _description(item: Item) -> str:
    """By what anybody can see: what it is, what it stands on, and in which room."""
    room = _ROOM_NOUNS[item.room.room_type]
    if item.support is None:
        return f"the {item.asset.noun} in the {room}"
    return f"the {item.asset.noun} on the {item.support.asset.noun} in the {room}"

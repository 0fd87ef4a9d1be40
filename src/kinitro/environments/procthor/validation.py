"""What must hold of every house before anybody is asked to do something in it."""

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Final

from kinitro.environments.procthor.assets import Ability
from kinitro.environments.procthor.furnishing import Item

if TYPE_CHECKING:
    from kinitro.environments.procthor.houses import House

_STANDING_ROOM: Final = 4
"""Grid points that must be reachable in each room: a quarter of a square metre."""


def problems(house: "House") -> Iterator[str]:
    """Everything wrong with the house, a sentence each, found as it is asked for; none when it is fit for use."""
    yield from _closed_rooms(house)
    yield from _overlaps(house)
    yield from _unsupported(house)
    yield from _outside(house)
    yield from _out_of_reach(house)


def _closed_rooms(house: "House") -> list[str]:
    inner = {room.id: room.rect.grown(-0.2) for room in house.plan.rooms}
    return [
        f"{name} can't be walked into."
        for name, rect in inner.items()
        if sum(rect.holds_point(x, z) for x, z in house.reach.places) < _STANDING_ROOM
    ]


def _out_of_reach(house: "House") -> list[str]:
    return [
        f"{item.id} can't be reached."
        for item in house.items
        if (item.asset.abilities or item.asset.surface) and not house.reach.reaches(item)
    ]


def _overlaps(house: "House") -> list[str]:
    return [
        f"{one.id} overlaps {other.id}."
        for layer in (house.floor, house.small)
        for one, other in combinations(layer, 2)
        if _share_space(one, other)
    ]


def _share_space(one: Item, other: Item) -> bool:
    return one.rect.overlaps(other.rect) and one.base_m < other.top_m and other.base_m < one.top_m


def _unsupported(house: "House") -> list[str]:
    return [
        f"{item.id} is larger than its place on {item.support.id}."
        for item in house.small
        if item.support and not item.support.rect.holds(item.rect)
    ]


def _outside(house: "House") -> list[str]:
    found = [f"{item.id} stands in a wall." for item in house.items if not item.room.rect.holds(item.rect)]
    found += [
        f"{item.id} blocks a door."
        for item in house.floor
        if any(opening.keep_free.overlaps(item.rect) for opening in house.plan.openings)
    ]
    unusable = [item for item in house.items if Ability.OPEN in item.asset.abilities and not item.support]
    return found + [
        f"{item.id} has no room to open."
        for item in unusable
        if any(item.front.overlaps(other.rect) for other in house.floor if other is not item)
    ]

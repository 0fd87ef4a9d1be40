"""The rooms of a house: a rectangle cut into rooms, their walls, and which of them are joined by doors. Metres."""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import pairwise
from typing import Final

from kinitro.environments.procthor.assets import DOORFRAME, FRONT_DOOR
from kinitro.environments.procthor.draws import Draws

GRID_M: Final = 0.25
CEILING_M: Final = 2.7
_MIN_SIDE_M: Final = 2.25
_DOOR_MARGIN_M: Final = 0.3
_AREAS_M2: Final = {"Kitchen": 14.0, "LivingRoom": 20.0, "Bedroom": 15.0, "Bathroom": 8.0}
_ROOMS: Final = ("Kitchen", "LivingRoom", "Bedroom", "Bathroom", "Bedroom")


class Side(Enum):
    """A side of a room. The value is the rotation of a thing that stands against it and faces the room."""

    SOUTH = 0
    WEST = 90
    NORTH = 180
    EAST = 270


@dataclass(frozen=True)
class Rect:
    """An axis-parallel rectangle on the floor."""

    x0: float
    z0: float
    x1: float
    z1: float

    @property
    def width(self) -> float:
        """Along x."""
        return self.x1 - self.x0

    @property
    def depth(self) -> float:
        """Along z."""
        return self.z1 - self.z0

    @property
    def centre(self) -> tuple[float, float]:
        """Its middle: x and z."""
        return (self.x0 + self.x1) / 2, (self.z0 + self.z1) / 2

    def grown(self, margin: float) -> "Rect":
        """Larger by the margin on each side."""
        return Rect(self.x0 - margin, self.z0 - margin, self.x1 + margin, self.z1 + margin)

    def overlaps(self, other: "Rect") -> bool:
        """Whether they share more than an edge."""
        return self.x0 < other.x1 and other.x0 < self.x1 and self.z0 < other.z1 and other.z0 < self.z1

    def holds(self, other: "Rect", slack: float = 1e-6) -> bool:
        """Whether the other lies within."""
        return (
            other.x0 >= self.x0 - slack
            and other.z0 >= self.z0 - slack
            and other.x1 <= self.x1 + slack
            and other.z1 <= self.z1 + slack
        )

    def holds_point(self, x: float, z: float) -> bool:
        """Whether the point lies within or on the edge."""
        return self.x0 <= x <= self.x1 and self.z0 <= z <= self.z1

    @classmethod
    def around(cls, x: float, z: float, width: float, depth: float) -> "Rect":
        """Centred there."""
        return cls(x - width / 2, z - depth / 2, x + width / 2, z + depth / 2)


@dataclass(frozen=True)
class Room:
    """One room. `number` is part of its id in the house."""

    number: int
    room_type: str
    rect: Rect

    @property
    def id(self) -> str:
        """As AI2-THOR's house format writes it."""
        return f"room|{self.number}"


@dataclass(frozen=True)
class WallPiece:
    """A piece of one side of a room, seen from inside; `beyond` is the room behind it, None outdoors.

    It runs clockwise around its room: upward on the west, rightward on the north side and so on.
    """

    room: Room
    side: Side
    low: float
    high: float
    beyond: Room | None

    @property
    def length(self) -> float:
        """Metres."""
        return self.high - self.low

    @cached_property
    def at(self) -> float:
        """The coordinate that all its points share: x for west and east, z for north and south."""
        rect = self.room.rect
        return {Side.WEST: rect.x0, Side.EAST: rect.x1, Side.SOUTH: rect.z0, Side.NORTH: rect.z1}[self.side]

    @property
    def along_z(self) -> bool:
        """Whether it runs along z."""
        return self.side in (Side.WEST, Side.EAST)

    @property
    def ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Start and end, each x and z."""
        low, high = (
            ((self.at, self.low), (self.at, self.high)) if self.along_z else ((self.low, self.at), (self.high, self.at))
        )
        return (low, high) if self.runs_upward else (high, low)

    @property
    def runs_upward(self) -> bool:
        """Whether it starts at its smaller coordinate."""
        return self.side in (Side.WEST, Side.NORTH)

    @cached_property
    def place(self) -> str:
        """The part of a wall's id that both of its faces share."""
        (xa, za), (xb, zb) = self.ends
        return f"{min(xa, xb):.2f}|{min(za, zb):.2f}|{max(xa, xb):.2f}|{max(za, zb):.2f}"

    def zone(self, low: float, high: float, reach: float) -> Rect:
        """The floor on both sides of the wall from `low` to `high` along it, `reach` deep."""
        if self.along_z:
            return Rect(self.at - reach, low, self.at + reach, high)
        return Rect(low, self.at - reach, high, self.at + reach)


@dataclass(frozen=True)
class Opening:
    """A door or doorway in a wall, from `low` to `high` along it."""

    wall: WallPiece
    low: float
    high: float
    front: bool = False
    """The locked door to the outside."""

    @cached_property
    def keep_free(self) -> Rect:
        """The floor before and behind it that must stay empty."""
        return self.wall.zone(self.low, self.high, 0.3 if self.front else 0.7)


@dataclass(frozen=True)
class FloorPlan:
    """Rooms, their walls and the openings in them."""

    rooms: tuple[Room, ...]
    walls: tuple[WallPiece, ...]
    openings: tuple[Opening, ...]

    @property
    def bounds(self) -> Rect:
        """The whole house."""
        rects = [room.rect for room in self.rooms]
        return Rect(
            min(rect.x0 for rect in rects),
            min(rect.z0 for rect in rects),
            max(rect.x1 for rect in rects),
            max(rect.z1 for rect in rects),
        )

    def doors(self) -> tuple[Opening, ...]:
        """Those between rooms."""
        return tuple(opening for opening in self.openings if not opening.front)


def draw_floor_plan(draws: Draws, room_count: int) -> FloorPlan | None:
    """Rooms of a house, or None when this draw gave one too narrow or cut off."""
    types = _ROOMS[:room_count]
    width, depth = _outline(draws, sum(_AREAS_M2[name] for name in types))
    rects = _cut(draws, Rect(0.0, 0.0, width, depth), draws.shuffled(types))
    if rects is None:
        return None
    rooms = tuple(Room(number, name, rect) for number, (name, rect) in enumerate(rects, start=1))
    walls = tuple(piece for room in rooms for side in Side for piece in _pieces(room, side, rooms))
    doors = _doors(draws, rooms, walls)
    return FloorPlan(rooms, walls, (*doors, *_front_door(draws, walls))) if doors is not None else None


def _snap(value: float) -> float:
    return round(value / GRID_M) * GRID_M


def _outline(draws: Draws, area: float) -> tuple[float, float]:
    width = _snap((area * draws.between(0.8, 1.5)) ** 0.5)
    return width, _snap(area / width)


def _cut(draws: Draws, rect: Rect, types: list[str]) -> list[tuple[str, Rect]] | None:
    """Cuts the rectangle in two, again and again, each part as large as its rooms need."""
    if min(rect.width, rect.depth) < _MIN_SIDE_M:
        return None
    if len(types) == 1:
        return [(types[0], rect)]
    middle = len(types) // 2
    share = sum(_AREAS_M2[name] for name in types[:middle]) / sum(_AREAS_M2[name] for name in types)
    share += draws.between(-0.05, 0.05)
    if rect.width >= rect.depth:
        at = _snap(rect.x0 + share * rect.width)
        parts = Rect(rect.x0, rect.z0, at, rect.z1), Rect(at, rect.z0, rect.x1, rect.z1)
    else:
        at = _snap(rect.z0 + share * rect.depth)
        parts = Rect(rect.x0, rect.z0, rect.x1, at), Rect(rect.x0, at, rect.x1, rect.z1)
    first, second = _cut(draws, parts[0], types[:middle]), _cut(draws, parts[1], types[middle:])
    return first + second if first and second else None


def _pieces(room: Room, side: Side, rooms: tuple[Room, ...]) -> list[WallPiece]:
    """One side of a room, a piece for each room behind it and for each stretch outdoors."""
    whole = WallPiece(room, side, *_span(room.rect, side), None)
    opposite = {Side.WEST: Side.EAST, Side.EAST: Side.WEST, Side.SOUTH: Side.NORTH, Side.NORTH: Side.SOUTH}[side]
    behind: list[tuple[float, float, Room]] = []
    for other in rooms:
        facing = WallPiece(other, opposite, *_span(other.rect, opposite), None)
        low, high = max(whole.low, facing.low), min(whole.high, facing.high)
        if facing.at == whole.at and low < high:
            behind.append((low, high, other))
    cuts = sorted({whole.low, whole.high, *(end for low, high, _ in behind for end in (low, high))})
    return [
        WallPiece(room, side, low, high, next((other for a, b, other in behind if a <= low and high <= b), None))
        for low, high in pairwise(cuts)
    ]


def _span(rect: Rect, side: Side) -> tuple[float, float]:
    return (rect.z0, rect.z1) if side in (Side.WEST, Side.EAST) else (rect.x0, rect.x1)


def _doors(draws: Draws, rooms: tuple[Room, ...], walls: tuple[WallPiece, ...]) -> tuple[Opening, ...] | None:
    """A door between any two rooms needed to join them all, and some more. None when a room can't be joined.

    Of a wall's two faces the one that runs upward is taken: there "from its start" and "from its smaller
    coordinate", the two readings of a hole's position, mean the same.
    """
    needed = DOORFRAME.size_m[0] + 2 * _DOOR_MARGIN_M
    places = [wall for wall in walls if wall.beyond and wall.runs_upward and wall.length >= needed]
    joined = {rooms[0].number}
    doors = [_opening(draws, wall, DOORFRAME.size_m[0]) for wall in _outward(draws.shuffled(places), joined)]
    if len(joined) < len(rooms):
        return None
    extra = [wall for wall in places if all(door.wall is not wall for door in doors) and draws.chance(0.4)]
    return (*doors, *(_opening(draws, wall, DOORFRAME.size_m[0]) for wall in extra))


def _outward(places: list[WallPiece], joined: set[int]) -> list[WallPiece]:
    """The walls through which the joined rooms grow until no further room can be reached."""
    chosen: list[WallPiece] = []
    while True:
        for wall in places:
            ends = {wall.room.number, wall.beyond.number if wall.beyond else 0}
            if len(ends & joined) == 1:
                joined |= ends
                chosen.append(wall)
                break
        else:
            return chosen


def _opening(draws: Draws, wall: WallPiece, width: float) -> Opening:
    low = draws.between(wall.low + _DOOR_MARGIN_M, wall.high - _DOOR_MARGIN_M - width)
    low = round(low, 2)
    return Opening(wall, low, low + width)


def _front_door(draws: Draws, walls: tuple[WallPiece, ...]) -> tuple[Opening, ...]:
    """In the middle of an outer wall of kitchen or living room, where both readings of its place agree too."""
    width = FRONT_DOOR.size_m[0]
    outer = [
        wall
        for wall in walls
        if wall.beyond is None and wall.length >= width + 1.0 and wall.room.room_type in ("Kitchen", "LivingRoom")
    ]
    if not outer:
        return ()
    wall = draws.pick(outer)
    middle = (wall.low + wall.high) / 2
    return (Opening(wall, middle - width / 2, middle + width / 2, front=True),)

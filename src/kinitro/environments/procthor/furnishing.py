"""What stands, lies and hangs in the rooms of a house. Nothing overlaps, doors stay free, all fits its support."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from kinitro.environments.procthor.assets import (
    GOES_ON,
    SMALL,
    WALL,
    WINDOWS,
    Ability,
    Asset,
    assets_of,
)
from kinitro.environments.procthor.draws import Draws
from kinitro.environments.procthor.floorplan import FloorPlan, Rect, Room, Side, WallPiece

_TRIES: Final = 24
_GAP_M: Final = 0.06
_RIM_M: Final = 0.03
"""Small objects stay this far from the edge of what they stand on."""
_REACH_M: Final = 0.55
"""And no further than this from its front edge or sides, so that an agent on the floor reaches them."""


@dataclass(frozen=True)
class Wish:
    """A piece of furniture for a room: one of these types; `centre` stands free, the others against a wall."""

    types: tuple[str, ...]
    needed: bool = False
    centre: bool = False


_WISHES: Final[dict[str, tuple[Wish, ...]]] = {
    "Kitchen": (
        Wish(("CounterTop",), needed=True),
        Wish(("Fridge",), needed=True),
        Wish(("DiningTable",), centre=True),
        Wish(("GarbageCan",)),
        Wish(("SideTable",)),
    ),
    "LivingRoom": (
        Wish(("Sofa",), needed=True),
        Wish(("TVStand",), needed=True),
        Wish(("CoffeeTable",), needed=True, centre=True),
        Wish(("FloorLamp",), needed=True),
        Wish(("SideTable", "Dresser")),
        Wish(("ArmChair",)),
        Wish(("HousePlant",)),
    ),
    "Bedroom": (
        Wish(("Bed",), needed=True),
        Wish(("Dresser", "Desk"), needed=True),
        Wish(("SideTable",), needed=True),
        Wish(("FloorLamp", "Desk")),
        Wish(("GarbageCan", "HousePlant")),
    ),
    "Bathroom": (Wish(("Toilet",), needed=True), Wish(("SideTable",)), Wish(("GarbageCan",))),
}
_ALWAYS: Final[dict[str, tuple[str, ...]]] = {
    "TVStand": ("Television",),
    "CounterTop": ("Microwave", "CoffeeMachine"),
    "Dresser": ("Safe",),
}
"""Appliances that have a fixed place."""


@dataclass(frozen=True)
class Item:
    """One object. `base_m` is the height of its underside; `support` is the furniture that it stands on, if any."""

    id: str
    asset: Asset
    room: Room
    x: float
    z: float
    rotation: int
    base_m: float = 0.0
    support: "Item | None" = None

    @cached_property
    def rect(self) -> Rect:
        """Its footprint."""
        return Rect.around(self.x, self.z, *self.asset.footprint_m(self.rotation))

    @property
    def top_m(self) -> float:
        """Height of its upper side."""
        return self.base_m + self.asset.size_m[1]

    @cached_property
    def front(self) -> Rect:
        """The floor before it that it needs."""
        reach, rect = self.asset.front_m, self.rect
        return {
            0: Rect(rect.x0, rect.z1, rect.x1, rect.z1 + reach),
            90: Rect(rect.x1, rect.z0, rect.x1 + reach, rect.z1),
            180: Rect(rect.x0, rect.z0 - reach, rect.x1, rect.z0),
            270: Rect(rect.x0 - reach, rect.z0, rect.x0, rect.z1),
        }[self.rotation]


@dataclass(frozen=True)
class WallItem:
    """A painting or window: the middle of it along its wall piece, and its underside's height."""

    id: str
    asset: Asset
    wall: WallPiece
    middle: float
    base_m: float

    @property
    def span(self) -> tuple[float, float]:
        """From where to where along the wall."""
        half = self.asset.size_m[0] / 2
        return self.middle - half, self.middle + half


@dataclass
class Furnisher:
    """Fills the rooms of one plan."""

    plan: FloorPlan
    draws: Draws
    floor: list[Item] = field(default_factory=list)
    small: list[Item] = field(default_factory=list)
    on_walls: list[WallItem] = field(default_factory=list)

    def furnish(self) -> bool:
        """Everything; False when something needed finds no place."""
        if not all(self._furnish_room(room) for room in self.plan.rooms):
            return False
        for item in list(self.floor):
            if item.asset.surface:
                self._lay(item)
        self._hang()
        return True

    # Floor

    def _furnish_room(self, room: Room) -> bool:
        return all(self._fulfil(room, wish) or not wish.needed for wish in _WISHES[room.room_type])

    def _fulfil(self, room: Room, wish: Wish) -> bool:
        object_type = self.draws.pick(wish.types)
        for _ in range(_TRIES):
            asset = self.draws.pick(assets_of(object_type))
            item = self._in_the_middle(room, asset) if wish.centre else self._against_a_wall(room, asset)
            if item is not None and self._fits(item):
                self.floor.append(item)
                return True
        return False

    def _against_a_wall(self, room: Room, asset: Asset) -> Item | None:
        side = self.draws.pick(tuple(Side))
        width, depth = asset.footprint_m(side.value)
        inner = room.rect.grown(-0.05)
        if width > inner.width or depth > inner.depth:
            return None
        x = self.draws.between(inner.x0 + width / 2, inner.x1 - width / 2)
        z = self.draws.between(inner.z0 + depth / 2, inner.z1 - depth / 2)
        match side:
            case Side.SOUTH:
                z = inner.z0 + depth / 2
            case Side.NORTH:
                z = inner.z1 - depth / 2
            case Side.WEST:
                x = inner.x0 + width / 2
            case Side.EAST:
                x = inner.x1 - width / 2
        return self._item(room, asset, x, z, side.value)

    def _in_the_middle(self, room: Room, asset: Asset) -> Item | None:
        rotation = self.draws.pick((0, 90, 180, 270))
        width, depth = asset.footprint_m(rotation)
        inner = room.rect.grown(-0.6)
        if width > inner.width or depth > inner.depth:
            return None
        x = self.draws.between(inner.x0 + width / 2, inner.x1 - width / 2)
        z = self.draws.between(inner.z0 + depth / 2, inner.z1 - depth / 2)
        return self._item(room, asset, x, z, rotation)

    def _item(self, room: Room, asset: Asset, x: float, z: float, rotation: int) -> Item:
        count = sum(other.asset.object_type == asset.object_type for other in self.floor)
        name = f"{asset.object_type}|{room.number}|{count}"
        return Item(name, asset, room, round(x, 3), round(z, 3), rotation)

    def _fits(self, item: Item) -> bool:
        body, front = item.rect.grown(_GAP_M), item.front
        if not item.room.rect.holds(front) or not item.room.rect.holds(item.rect):
            return False
        if any(opening.keep_free.overlaps(item.rect) for opening in self.plan.openings):
            return False
        return not any(
            body.overlaps(other.rect) or front.overlaps(other.rect) or item.rect.overlaps(other.front)
            for other in self.floor
            if other.room is item.room
        )

    # On surfaces

    def _lay(self, support: Item) -> None:
        for object_type in _ALWAYS.get(support.asset.object_type, ()):
            self._put(support, object_type)
        wanted = 1 + self.draws.below(3)
        loose = [
            name
            for name in dict.fromkeys(asset.object_type for asset in SMALL)
            if support.asset.object_type in GOES_ON[name] and not _has_a_fixed_place(name)
        ]
        for object_type in self.draws.shuffled(loose)[:wanted]:
            self._put(support, object_type)

    def _put(self, support: Item, object_type: str) -> None:
        for _ in range(_TRIES):
            item = self._on(support, self.draws.pick(assets_of(object_type)))
            if item is not None and not any(
                item.rect.grown(0.03).overlaps(other.rect) for other in self.small if other.support is support
            ):
                self.small.append(item)
                return

    def _on(self, support: Item, asset: Asset) -> Item | None:
        """Facing as the furniture does. What can't be picked up stands at its back, the rest near its front."""
        top = support.rect.grown(-_RIM_M)
        width, depth = asset.footprint_m(support.rotation)
        if width > top.width or depth > top.depth:
            return None
        x = self.draws.between(top.x0 + width / 2, top.x1 - width / 2)
        z = self.draws.between(top.z0 + depth / 2, top.z1 - depth / 2)
        if Ability.PICK_UP not in asset.abilities:
            x, z = {
                0: (x, top.z0 + depth / 2),
                90: (top.x0 + width / 2, z),
                180: (x, top.z1 - depth / 2),
                270: (top.x1 - width / 2, z),
            }[support.rotation]
        item = Item(
            f"{asset.object_type}|{support.id.replace('|', '-')}|{len(self.small)}",
            asset,
            support.room,
            round(x, 3),
            round(z, 3),
            support.rotation,
            support.top_m,
            support,
        )
        return item if _within_reach(item, support) else None

    # Walls

    def _hang(self) -> None:
        for wall in self.plan.walls:
            if wall.beyond is None and not self._has_opening(wall) and self.draws.chance(0.5):
                self._window(wall)
            elif self.draws.chance(0.5):
                self._painting(wall)

    def _has_opening(self, wall: WallPiece) -> bool:
        """On either of the wall's faces."""
        return any(opening.wall.place == wall.place for opening in self.plan.openings)

    def _window(self, wall: WallPiece) -> None:
        asset = self.draws.pick(WINDOWS)
        if wall.length >= asset.size_m[0] + 0.4:
            name = f"window|{wall.room.number}|{len(self.on_walls)}"
            self.on_walls.append(WallItem(name, asset, wall, (wall.low + wall.high) / 2, 0.9))

    def _painting(self, wall: WallPiece) -> None:
        asset = self.draws.pick(WALL)
        half = asset.size_m[0] / 2
        if self._has_opening(wall) or wall.length < asset.size_m[0] + 0.4:
            return
        name = f"Painting|{wall.room.number}|{len(self.on_walls)}"
        middle = round(self.draws.between(wall.low + half + 0.1, wall.high - half - 0.1), 3)
        item = WallItem(name, asset, wall, middle, 1.45)
        if not any(_covers(item, other) for other in self.floor if other.room is wall.room):
            self.on_walls.append(item)


def _covers(painting: WallItem, furniture: Item) -> bool:
    """Whether tall furniture stands before it."""
    low, high = painting.span
    return furniture.top_m > painting.base_m and furniture.rect.overlaps(painting.wall.zone(low, high, 0.6))


def _has_a_fixed_place(object_type: str) -> bool:
    return any(object_type in fixed for fixed in _ALWAYS.values())


def _within_reach(item: Item, support: Item) -> bool:
    """Whether its middle lies near the front of furniture that stands against a wall, or any side of a table."""
    if Ability.PICK_UP not in item.asset.abilities:
        return True
    rect = support.rect
    front = {0: rect.z1 - item.z, 90: rect.x1 - item.x, 180: item.z - rect.z0, 270: item.x - rect.x0}[support.rotation]
    return front <= _REACH_M

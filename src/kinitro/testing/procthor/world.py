"""The stand-in's rules: where the agent may go, what it reaches, and what each action does to the boxes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import cos, radians, sin, tan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinitro.environments.procthor.assets import GOES_ON, Ability
from kinitro.testing.procthor.boxes import Boxes, Thing, read_things, read_walls

# Any in this file: actions as JSON.

Vector = NDArray[np.float64]
RADIUS_M = 0.2
AGENT_Y_M = 0.9
EYE_ABOVE_M = 0.675
CEILING_M = 2.7
HAND_AHEAD_M = 0.5
HAND_REACH_M = 0.4
_HORIZONS = (-30.5, 60.5)
_STEP_M = 0.05
_GAP_M = 0.01


class RefusedError(Exception):
    """AI2-THOR would report that the action failed, with this message."""


@dataclass
class World:
    """One house with one agent. Angles in degrees, clockwise; 0 looks along +z."""

    things: dict[str, Thing] = field(default_factory=dict)
    walls: Boxes = field(default_factory=lambda: Boxes(np.zeros((0, 3)), np.zeros((0, 3))))
    x: float = 0.0
    z: float = 0.0
    yaw: float = 0.0
    horizon: float = 0.0
    fov: float = 90.0
    reach_m: float = 1.5
    hand: Vector = field(default_factory=lambda: np.zeros(3))

    def load(self, house: Mapping[str, Any]) -> None:
        """Builds a house; everything that was is gone."""
        if house["metadata"]["schema"] != "1.0.0":
            raise RefusedError("The house's schema is not 1.0.0.")
        self.things, self.walls = read_things(house), read_walls(house)

    # The agent

    @property
    def eye(self) -> Vector:
        """The camera's position."""
        return np.array([self.x, AGENT_Y_M + EYE_ABOVE_M, self.z])

    @property
    def held(self) -> Thing | None:
        """What the hand holds."""
        return next((thing for thing in self.things.values() if thing.held), None)

    def teleport(self, position: Mapping[str, float], yaw: float, horizon: float) -> None:
        """Puts the agent there, if it fits."""
        if not self._is_free(position["x"], position["z"]):
            raise RefusedError("The agent would collide with something there.")
        self.x, self.z, self.yaw, self.horizon = position["x"], position["z"], yaw % 360.0, horizon
        self._carry()

    def move(self, ahead: float, right: float) -> None:
        """Moves all the way, or not at all when something is in the way."""
        way = np.array([ahead * sin(radians(self.yaw)) + right * cos(radians(self.yaw)),
                        ahead * cos(radians(self.yaw)) - right * sin(radians(self.yaw))])  # fmt: skip
        steps = max(1, round(float(np.hypot(*way)) / _STEP_M))
        for share in np.linspace(0.0, 1.0, steps + 1)[1:]:
            if not self._is_free(self.x + share * way[0], self.z + share * way[1]):
                raise RefusedError("Something is in the way.")
        self.x, self.z = self.x + float(way[0]), self.z + float(way[1])
        self._carry()

    def rotate(self, degrees: float) -> None:
        """Clockwise."""
        self.yaw = (self.yaw + degrees) % 360.0
        self._carry()

    def look(self, degrees: float) -> None:
        """Down."""
        horizon = self.horizon + degrees
        if not _HORIZONS[0] <= horizon <= _HORIZONS[1]:
            raise RefusedError("The camera can't look further.")
        self.horizon = horizon
        self._carry()

    def _is_free(self, x: float, z: float) -> bool:
        boxes = [(thing.low, thing.high) for thing in self.things.values() if thing.support is None and not thing.held]
        low = np.array([low for low, _ in boxes] + list(self.walls.low))
        high = np.array([high for _, high in boxes] + list(self.walls.high))
        if not len(low):
            return True
        aside_x = np.maximum(np.maximum(low[:, 0] - x, x - high[:, 0]), 0.0)
        aside_z = np.maximum(np.maximum(low[:, 2] - z, z - high[:, 2]), 0.0)
        meets = (np.hypot(aside_x, aside_z) < RADIUS_M) & (low[:, 1] < 1.8)
        return not bool(meets.any())

    # Seeing

    def directions(self, across: Vector, down: Vector) -> Vector:
        """Rays (n, 3) through points of the picture, shares from the top left corner."""
        spread = tan(radians(self.fov) / 2)
        right = np.array([cos(radians(self.yaw)), 0.0, -sin(radians(self.yaw))])
        dip = radians(self.horizon)
        ahead = np.array([sin(radians(self.yaw)) * cos(dip), -sin(dip), cos(radians(self.yaw)) * cos(dip)])
        up = np.cross(ahead, right)
        rays = ahead + spread * ((2 * across - 1)[:, None] * right + (1 - 2 * down)[:, None] * up)
        unit: Vector = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        return unit

    def solid(self) -> tuple[list[Thing], Boxes]:
        """The things, and the boxes of these and then of the walls."""
        things = list(self.things.values())
        low = np.array([thing.low for thing in things] + list(self.walls.low))
        high = np.array([thing.high for thing in things] + list(self.walls.high))
        return things, Boxes(low.reshape(-1, 3), high.reshape(-1, 3))

    def at_pixel(self, x: float, y: float) -> Thing:
        """What the picture shows there, if the agent reaches that point of it."""
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise RefusedError("x/y must be in [0:1].")
        things, boxes = self.solid()
        index, distance = boxes.hits(self.eye, self.directions(np.array([x]), np.array([y])))
        if not 0 <= index[0] < len(things):
            raise RefusedError("There is no object at this point of the picture.")
        point = self.eye + distance[0] * self.directions(np.array([x]), np.array([y]))[0]
        if np.hypot(point[0] - self.x, point[2] - self.z) > self.reach_m:
            raise RefusedError(f"{things[index[0]].id} is too far away.")
        return things[int(index[0])]

    def visible(self) -> set[str]:
        """Ids of what the agent could act on now: in a coarse picture, and within reach."""
        grid = (np.arange(24) + 0.5) / 24
        across, down = (axis.ravel() for axis in np.meshgrid(grid, grid))
        things, boxes = self.solid()
        rays = self.directions(across, down)
        index, distance = boxes.hits(self.eye, rays)
        flat = np.hypot(rays[:, 0], rays[:, 2]) * np.where(np.isfinite(distance), distance, 1e9)
        return {
            things[each].id for each in np.unique(index[(index >= 0) & (flat <= self.reach_m)]) if each < len(things)
        }

    # Acting

    def pick_up(self, thing: Thing) -> None:
        """Takes it into the hand."""
        if Ability.PICK_UP not in thing.asset.abilities:
            raise RefusedError(f"{thing.id} is not pickupable.")
        if self.held is not None:
            raise RefusedError("The hand is not empty.")
        thing.held, thing.support, self.hand = True, None, np.zeros(3)
        self._carry()

    def put(self, place: Thing) -> None:
        """Puts what the hand holds on the top of the place, where there is room."""
        held = self.held
        if held is None:
            raise RefusedError("The hand is empty.")
        if place.asset.object_type not in GOES_ON.get(held.asset.object_type, ()):
            raise RefusedError(f"{held.id} can't be put on {place.id}.")
        spot = self._spot(held, place)
        if spot is None:
            raise RefusedError(f"There is no room on {place.id}.")
        held.held, held.support, held.middle = False, place.id, spot
        held.rotation_y, held.turn = place.rotation_y, np.zeros(3)

    def set_open(self, thing: Thing, *, opened: bool) -> None:
        """Opens or closes it; the box stays as it is."""
        if Ability.OPEN not in thing.asset.abilities:
            raise RefusedError(f"{thing.id} is not openable.")
        if thing.open == opened:
            raise RefusedError(f"{thing.id} is {'open' if opened else 'closed'} already.")
        thing.open = opened

    def set_on(self, thing: Thing, *, on: bool) -> None:
        """Switches it."""
        if Ability.TOGGLE not in thing.asset.abilities:
            raise RefusedError(f"{thing.id} is not toggleable.")
        if thing.on == on:
            raise RefusedError(f"{thing.id} is {'on' if on else 'off'} already.")
        thing.on = on

    def move_hand(self, right: float, up: float, ahead: float) -> None:
        """Moves what is held, within the hand's reach."""
        if self.held is None:
            raise RefusedError("The hand is empty.")
        hand = self.hand + np.array([right, up, ahead])
        if np.abs(hand).max() > HAND_REACH_M:
            raise RefusedError("The hand does not reach there.")
        self.hand = hand
        self._carry()

    def turn_hand(self, pitch: float, yaw: float, roll: float) -> None:
        """Turns what is held."""
        if self.held is None:
            raise RefusedError("The hand is empty.")
        self.held.turn = self.held.turn + np.array([pitch, yaw, roll])

    def _carry(self) -> None:
        if self.held is None:
            return
        offset = self.hand + np.array([0.0, -0.35, HAND_AHEAD_M])
        side, ahead = radians(self.yaw + 90.0), radians(self.yaw)
        flat = offset[0] * np.array([sin(side), cos(side)]) + offset[2] * np.array([sin(ahead), cos(ahead)])
        self.held.middle = self.eye + np.array([flat[0], offset[1], flat[1]])

    def _spot(self, held: Thing, place: Thing) -> Vector | None:
        """The free spot on the place that is nearest to the agent."""
        width, depth = held.asset.footprint_m(round(place.rotation_y))
        half = np.array([width / 2, held.asset.size_m[1] / 2, depth / 2])
        low, high = place.low + half, place.high - half
        if low[0] > high[0] or low[2] > high[2]:
            return None
        spots = [
            np.array([x, place.high[1] + half[1], z])
            for x in np.arange(low[0], high[0] + 1e-9, 0.05)
            for z in np.arange(low[2], high[2] + 1e-9, 0.05)
        ]
        others = [thing for thing in self.things.values() if thing.support == place.id]
        free = [spot for spot in spots if not any(_meet(spot, half, other) for other in others)]
        return min(free, key=lambda spot: float(np.hypot(spot[0] - self.x, spot[2] - self.z)), default=None)


def _meet(middle: Vector, half: Vector, other: Thing) -> bool:
    return bool(np.all(np.abs(middle - other.middle)[[0, 2]] < (half + other.half)[[0, 2]] + _GAP_M))

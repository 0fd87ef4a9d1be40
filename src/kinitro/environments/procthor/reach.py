"""Where an agent can stand in a house, and get to from its start. Pure geometry on AI2-THOR's grid of 0.25 m."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinitro.environments.procthor.floorplan import GRID_M, FloorPlan, Rect, WallPiece
from kinitro.environments.procthor.furnishing import Item

Place = tuple[float, float]
AGENT_RADIUS_M: Final = 0.25
"""AI2-THOR's agent is a capsule 0.2 m in radius; the rest is for us to err by."""
TOUCH_M: Final = 1.25
"""An object is taken for within reach up to this far from the agent's middle, on the floor. AI2-THOR's own limit is
1.5 m from the agent's axis to the nearest visible point."""
_WALL_M: Final = 0.05


@dataclass(frozen=True)
class Reach:
    """Places on the grid, in the order in which they were found from the start."""

    places: tuple[Place, ...]

    def near(self, item: Item) -> list[Place]:
        """Places from which the item is within reach, nearest first, none across a wall."""
        return [place for _, place in sorted((_distance(place, item.rect), place) for place in self._beside(item))]

    def reaches(self, item: Item) -> bool:
        """Whether there is such a place."""
        return next(self._beside(item), None) is not None

    def _beside(self, item: Item) -> Iterator[Place]:
        room, window = item.room.rect, item.rect.grown(TOUCH_M)
        low_x, high_x = max(room.x0, window.x0), min(room.x1, window.x1)
        low_z, high_z = max(room.z0, window.z0), min(room.z1, window.z1)
        for x, z in self.places:
            if low_x <= x <= high_x and low_z <= z <= high_z and _distance((x, z), item.rect) <= TOUCH_M:
                yield x, z


def free_places(plan: FloorPlan, floor: Sequence[Item]) -> list[Place]:
    """Every grid point where the agent touches nothing."""
    bounds = plan.bounds
    xs, zs = _grid(bounds.x0, bounds.x1), _grid(bounds.z0, bounds.z1)
    free = np.ones((len(xs), len(zs)), dtype=bool)
    blocked = [item.rect for item in floor] + [rect for wall in plan.walls for rect in solid_parts(plan, wall)]
    for rect in blocked:
        near = rect.grown(AGENT_RADIUS_M)
        free[np.ix_((xs >= near.x0) & (xs <= near.x1), (zs >= near.z0) & (zs <= near.z1))] = False
    return [(float(xs[column]), float(zs[row])) for column, row in np.argwhere(free)]


def walk(free: Sequence[Place], start: Place) -> Reach:
    """All free places that can be walked to from the start, one grid step at a time."""
    left = set(free) - {start}
    found = [start]
    for x, z in found:
        for place in ((x + GRID_M, z), (x - GRID_M, z), (x, z + GRID_M), (x, z - GRID_M)):
            if place in left:
                left.remove(place)
                found.append(place)
    return Reach(tuple(found))


def solid_parts(plan: FloorPlan, wall: WallPiece) -> list[Rect]:
    """The wall without its doorways, as thin boxes."""
    holes = sorted(
        (opening.low, opening.high)
        for opening in plan.openings
        if opening.wall.place == wall.place and not opening.front
    )
    parts, low = [], wall.low
    for start, end in holes:
        parts.append((low, start))
        low = end
    parts.append((low, wall.high))
    return [wall.zone(start, end, _WALL_M) for start, end in parts if end > start]


def _grid(low: float, high: float) -> NDArray[np.float64]:
    return np.arange(round(low / GRID_M), round(high / GRID_M) + 1, dtype=np.float64) * GRID_M


def _distance(place: Place, rect: Rect) -> float:
    x, z = place
    return hypot(max(rect.x0 - x, 0.0, x - rect.x1), max(rect.z0 - z, 0.0, z - rect.z1))

"""A scripted expert for the six tasks: it knows the house and reads AI2-THOR's metadata, but acts by our channels."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from math import atan2, degrees, hypot
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinitro.environments.procthor.floorplan import GRID_M
from kinitro.environments.procthor.furnishing import Item
from kinitro.environments.procthor.observations import extrinsics, intrinsics, to_ours
from kinitro.environments.procthor.reach import Place
from kinitro.environments.procthor.spec import TURN_DEG, Interact, Nav
from kinitro.environments.procthor.tasks import Task, TaskType
from kinitro.policy.messages import Action

# Any in this file: AI2-THOR's metadata.

_PLACES: Final = 10
_AIMS: Final = 6
_EDGE: Final = 0.04
_DOWN_LIMITS_DEG: Final = (-30.0, 60.0)
_MOVES: Final[Mapping[tuple[int, int], Nav]] = {
    (0, 1): Nav.AHEAD,
    (0, -1): Nav.BACK,
    (-1, 0): Nav.LEFT,
    (1, 0): Nav.RIGHT,
}
_VERBS: Final[Mapping[TaskType, Interact]] = {
    TaskType.PICKUP: Interact.PICK_UP,
    TaskType.PLACE: Interact.PICK_UP,
    TaskType.OPEN: Interact.OPEN,
    TaskType.CLOSE: Interact.CLOSE,
    TaskType.TOGGLE_ON: Interact.TURN_ON,
    TaskType.TOGGLE_OFF: Interact.TURN_OFF,
}


class Expert:
    """Called once a step, it gives the next action; `obeyed` says what became of the one before."""

    def __init__(self, task: Task, metadata: Callable[[], Mapping[str, Any]], obeyed: Callable[[], bool]) -> None:
        self._task = task
        self._metadata = metadata
        self._obeyed = obeyed
        self._blocked: set[Place] = set()
        self._script = self._play()

    def __call__(self) -> Action:
        """The next action; nothing once everything has been tried."""
        return next(self._script, Action())

    def _play(self) -> Iterator[Action]:
        goal, items = self._task.goal, {item.id: item for item in self._task.house.items}
        yield from self._do(items[goal.target], _VERBS[goal.task_type])
        if goal.receptacle is not None:
            yield from self._do(items[goal.receptacle], Interact.PUT)

    def _do(self, item: Item, verb: Interact) -> Iterator[Action]:
        """Goes to one place after another beside the item and tries one visible point of it after another."""
        for place in self._task.house.reach.near(item)[:_PLACES]:
            yield from self._go(place)
            if self._here() != place:
                continue
            yield from self._face(item)
            for aim in self._aims(item, on_top=verb is Interact.PUT):
                yield Action(continuous={"aim": np.array(aim)}, discrete={"interact": int(verb)})
                if self._obeyed():
                    return

    # Walking

    def _here(self) -> Place:
        position = self._metadata()["agent"]["position"]
        return _on_grid(position["x"]), _on_grid(position["z"])

    def _yaw(self) -> float:
        return float(self._metadata()["agent"]["rotation"]["y"])

    def _go(self, goal: Place) -> Iterator[Action]:
        """Sidesteps along the grid, which needs no turning; goes around what turns out to be in the way."""
        yield from self._turn_to(round(self._yaw() / 90.0) * 90.0)
        while path := self._path(goal):
            step = path[0]
            yield _nav(_move(self._here(), step, self._yaw()))
            if not self._obeyed():
                self._blocked.add(step)

    def _path(self, goal: Place) -> list[Place]:
        """The steps to the goal; none when it is reached, or can't be."""
        start, free = self._here(), set(self._task.house.reach.places) - self._blocked
        came_from: dict[Place, Place] = {start: start}
        waiting = deque([start])
        while waiting and goal not in came_from:
            x, z = waiting.popleft()
            for place in ((x + GRID_M, z), (x - GRID_M, z), (x, z + GRID_M), (x, z - GRID_M)):
                if place in free and place not in came_from:
                    came_from[place] = (x, z)
                    waiting.append(place)
        steps: list[Place] = []
        place = goal
        while place in came_from and place != start:
            steps.append(place)
            place = came_from[place]
        return steps[::-1]

    # Looking

    def _turn_to(self, yaw: float) -> Iterator[Action]:
        turns = round(((yaw - self._yaw() + 180.0) % 360.0 - 180.0) / TURN_DEG)
        for _ in range(abs(turns)):
            yield _nav(Nav.TURN_RIGHT if turns > 0 else Nav.TURN_LEFT)

    def _face(self, item: Item) -> Iterator[Action]:
        x, z = self._here()
        box = self._box(item)
        right, ahead, up = box["center"]["x"] - x, box["center"]["z"] - z, box["center"]["y"]
        yield from self._turn_to(degrees(atan2(right, ahead)))
        eye = self._metadata()["cameraPosition"]["y"]
        wanted = degrees(atan2(eye - up, hypot(right, ahead)))
        wanted = min(max(wanted, _DOWN_LIMITS_DEG[0]), _DOWN_LIMITS_DEG[1])
        looks = round((wanted - self._metadata()["agent"]["cameraHorizon"]) / TURN_DEG)
        for _ in range(abs(looks)):
            yield _nav(Nav.LOOK_DOWN if looks > 0 else Nav.LOOK_UP)

    def _box(self, item: Item) -> Mapping[str, Any]:
        found = next(each for each in self._metadata()["objects"] if each["objectId"] == item.id)
        box: Mapping[str, Any] = found["axisAlignedBoundingBox"]
        return box

    def _aims(self, item: Item, *, on_top: bool) -> list[tuple[float, float]]:
        """Points of the item as shares of the picture, the middle first; those outside the picture left out."""
        box = self._box(item)
        centre = to_ours(box["center"])
        half = to_ours(box["size"]) / 2
        heights = (1.0,) if on_top else (0.0, 0.85, -0.7)
        shares = sorted(product((0.0, 0.7, -0.7), (0.0, 0.7, -0.7), heights), key=lambda share: sum(map(abs, share)))
        points = [centre + half * np.array(share) for share in shares]
        seen = [aim for point in points if (aim := self._project(point)) is not None]
        return seen[:_AIMS]

    def _project(self, point: NDArray[np.float64]) -> tuple[float, float] | None:
        metadata = self._metadata()
        x, y, z, _ = np.linalg.inv(extrinsics(metadata)) @ np.append(point, 1.0)
        if z <= 0.05:
            return None
        u, v, _ = intrinsics(metadata, 1) @ np.array([x / z, y / z, 1.0])
        return (float(u), float(v)) if _EDGE < u < 1 - _EDGE and _EDGE < v < 1 - _EDGE else None


def _on_grid(value: float) -> float:
    return round(value / GRID_M) * GRID_M


def _nav(move: Nav) -> Action:
    return Action(discrete={"nav": int(move)})


def _move(here: Place, there: Place, yaw: float) -> Nav:
    """The step in the agent's own frame; its heading is a multiple of 90 degrees."""
    east, north = round((there[0] - here[0]) / GRID_M), round((there[1] - here[1]) / GRID_M)
    quarter = round(yaw / 90.0) % 4
    for _ in range(quarter):
        # Seen by an agent turned a quarter clockwise, what lay to the east lies ahead.
        east, north = -north, east
    return _MOVES[east, north]

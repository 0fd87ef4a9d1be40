"""A plan of a house as a picture for people: walls, doors, windows, furniture, and what stands on it."""

from pathlib import Path
from typing import Any, Final

from kinitro.environments.procthor.floorplan import FloorPlan, Rect, WallPiece
from kinitro.environments.procthor.furnishing import Item
from kinitro.environments.procthor.reach import solid_parts
from kinitro.environments.procthor.tasks import Task

# Any in this file: Pillow's drawing surface; it is an optional dependency.

_PIXELS_A_METRE: Final = 90
_MARGIN_M: Final = 0.5
_TEXT_PX: Final = 12
_FLOOR_COLOURS: Final = {
    "Kitchen": (240, 232, 214),
    "LivingRoom": (226, 236, 226),
    "Bedroom": (226, 230, 242),
    "Bathroom": (222, 240, 244),
}
_FURNITURE: Final = (204, 192, 176)
_APPLIANCE: Final = (160, 176, 200)
_SMALL: Final = (214, 150, 90)
_TARGET: Final = (214, 48, 49)
_PLACE: Final = (34, 139, 84)
_INK: Final = (52, 52, 60)
_WINDOW: Final = (90, 170, 230)
_PAINTING: Final = (150, 90, 160)
_AGENT: Final = (20, 90, 200)


def draw_plan(task: Task, path: Path) -> None:
    """Writes a PNG: the target in red, the place to put it in green, the agent's start in blue."""
    from PIL import Image, ImageDraw  # noqa: PLC0415 - only people who want pictures need it

    bounds = task.house.plan.bounds.grown(_MARGIN_M)
    size = round(bounds.width * _PIXELS_A_METRE), round(bounds.depth * _PIXELS_A_METRE) + 2 * _TEXT_PX
    image = Image.new("RGB", size, "white")
    _Sheet(ImageDraw.Draw(image), bounds, size[1]).draw(task)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


class _Sheet:
    """A drawing surface in metres, north up."""

    def __init__(self, draw: Any, bounds: Rect, height_px: int) -> None:
        self._draw = draw
        self._bounds = bounds
        self._height_px = height_px

    def draw(self, task: Task) -> None:
        house = task.house
        for room in house.plan.rooms:
            self._box(room.rect, _FLOOR_COLOURS[room.room_type])
        for item in house.floor:
            self._item(item, task)
        for item in house.small:
            self._item(item, task)
        for wall in house.plan.walls:
            self._wall(house.plan, wall)
        for hung in house.on_walls:
            colour = _WINDOW if hung.asset.object_type == "Window" else _PAINTING
            self._box(hung.wall.zone(*hung.span, 0.04), colour)
        for room in house.plan.rooms:
            self._text(room.rect.x0 + 0.12, room.rect.z1 - 0.12, room.room_type)
        self._agent(task)
        self._draw.text((6, self._height_px - 2 * _TEXT_PX), f"seed {house.seed}: {task.instruction}", fill=_INK)

    def _item(self, item: Item, task: Task) -> None:
        colour = _SMALL if item.support else _APPLIANCE if item.asset.abilities else _FURNITURE
        if item.id == task.goal.target:
            colour = _TARGET
        elif item.id == task.goal.receptacle:
            colour = _PLACE
        self._box(item.rect, colour, outline=_INK)
        if item.support is None:
            self._text(item.rect.x0 + 0.03, item.rect.z1 - 0.02, item.asset.noun)

    def _wall(self, plan: FloorPlan, wall: WallPiece) -> None:
        for part in solid_parts(plan, wall):
            self._box(part, _INK)
        for opening in plan.openings:
            if opening.front and opening.wall is wall:
                self._box(wall.zone(opening.low, opening.high, 0.06), (150, 100, 60))

    def _agent(self, task: Task) -> None:
        start = task.house.start
        x, y = self._at(start.x, start.z)
        radius = 0.2 * _PIXELS_A_METRE
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=_AGENT, width=3)
        dx, dy = {0: (0, -1), 90: (1, 0), 180: (0, 1), 270: (-1, 0)}[start.heading_deg]
        self._draw.line((x, y, x + 2 * radius * dx, y + 2 * radius * dy), fill=_AGENT, width=3)

    def _at(self, x: float, z: float) -> tuple[float, float]:
        return (x - self._bounds.x0) * _PIXELS_A_METRE, (self._bounds.z1 - z) * _PIXELS_A_METRE

    def _box(self, rect: Rect, fill: tuple[int, int, int], outline: tuple[int, int, int] | None = None) -> None:
        (x0, y1), (x1, y0) = self._at(rect.x0, rect.z0), self._at(rect.x1, rect.z1)
        self._draw.rectangle((x0, y0, x1, y1), fill=fill, outline=outline)

    def _text(self, x: float, z: float, text: str) -> None:
        self._draw.text(self._at(x, z), text, fill=_INK)

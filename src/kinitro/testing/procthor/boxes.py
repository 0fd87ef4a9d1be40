"""The stand-in's world as boxes, read from the house's JSON alone: objects, walls with their doorways, and rays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinitro.environments.procthor.assets import FLOOR, SMALL, WALL, Asset

# Any in this file: JSON documents.

Vector = NDArray[np.float64]
WALL_HALF_M = 0.05
_ASSETS = {asset.asset_id: asset for asset in (*FLOOR, *SMALL, *WALL)}


@dataclass
class Thing:
    """One object: its asset, where its box's middle is (x, y, z of AI2-THOR), and its changing state."""

    id: str
    asset: Asset
    middle: Vector
    rotation_y: float
    open: bool = False
    on: bool = False
    held: bool = False
    support: str | None = None
    turn: Vector = field(default_factory=lambda: np.zeros(3))

    @property
    def half(self) -> Vector:
        """Half its size along x, y and z."""
        width, depth = self.asset.footprint_m(round(self.rotation_y))
        return np.array([width, self.asset.size_m[1], depth]) / 2

    @property
    def low(self) -> Vector:
        """Its box's lowest corner."""
        return self.middle - self.half

    @property
    def high(self) -> Vector:
        """Its box's highest corner."""
        return self.middle + self.half


@dataclass(frozen=True)
class Boxes:
    """Boxes to shoot rays at: corners (n, 3) each."""

    low: Vector
    high: Vector

    def hits(self, origin: Vector, directions: Vector) -> tuple[NDArray[np.intp], Vector]:
        """For each direction (m, 3) the index of the first box that it enters, -1 for none, and the distance."""
        if not len(self.low):
            return np.full(len(directions), -1), np.full(len(directions), np.inf)
        inverse = (1.0 / np.where(np.abs(directions) < 1e-9, 1e-9, directions)).astype(np.float32)
        low, high = (self.low - origin).astype(np.float32), (self.high - origin).astype(np.float32)
        near = np.full((1, len(directions)), -np.inf, dtype=np.float32)
        far = np.full((1, len(directions)), np.inf, dtype=np.float32)
        for axis in range(3):
            first = low[:, axis, None] * inverse[None, :, axis]
            second = high[:, axis, None] * inverse[None, :, axis]
            near = np.maximum(near, np.minimum(first, second))
            far = np.minimum(far, np.maximum(first, second))
        distance = np.where((near <= far) & (far > 0) & (near > 1e-6), near, np.inf)
        first_box = np.argmin(distance, axis=0)
        reached = distance[first_box, np.arange(len(directions))].astype(np.float64)
        return np.where(np.isfinite(reached), first_box, -1), reached


def read_things(house: Mapping[str, Any]) -> dict[str, Thing]:
    """Every object of the house by its id."""
    things: dict[str, Thing] = {}
    for document in house["objects"]:
        _read(document, None, things)
    return things


def _read(document: Mapping[str, Any], support: str | None, things: dict[str, Thing]) -> None:
    position = document["position"]
    things[document["id"]] = Thing(
        document["id"],
        _ASSETS[document["assetId"]],
        np.array([position["x"], position["y"], position["z"]]),
        float(document["rotation"]["y"]) % 360.0,
        open=document.get("openness", 0.0) > 0.0,
        on=bool(document.get("isOn", False)),
        support=support,
    )
    for child in document.get("children", ()):
        _read(child, document["id"], things)


def read_walls(house: Mapping[str, Any]) -> Boxes:
    """The walls as boxes, each cut where a door that is no leaf leads through. The outer door stays shut."""
    holes: dict[str, list[tuple[float, float, float]]] = {}
    lengths = {wall["id"]: _length(wall["polygon"]) for wall in house["walls"]}
    for door in house["doors"]:
        if door["assetId"].startswith("Doorframe"):
            low, high = door["holePolygon"]
            holes.setdefault(door["wall0"], []).append((low["x"], high["x"], high["y"]))
            # The other face runs the other way.
            length = lengths[door["wall1"]]
            holes.setdefault(door["wall1"], []).append((length - high["x"], length - low["x"], high["y"]))
    corners = [box for wall in house["walls"] for box in _wall_boxes(wall["polygon"], holes.get(wall["id"], []))]
    return Boxes(np.array([low for low, _ in corners]), np.array([high for _, high in corners]))


def _length(polygon: list[Mapping[str, float]]) -> float:
    start, end = polygon[0], polygon[1]
    return abs(end["x"] - start["x"]) + abs(end["z"] - start["z"])


def _wall_boxes(
    polygon: list[Mapping[str, float]], holes: list[tuple[float, float, float]]
) -> list[tuple[list[float], list[float]]]:
    start, end, top = polygon[0], polygon[1], max(corner["y"] for corner in polygon)
    length = _length(polygon)
    way = (np.sign(end["x"] - start["x"]), np.sign(end["z"] - start["z"]))
    pieces, at = [], 0.0
    for low, high, height in sorted(holes):
        pieces += [(at, low, 0.0), (low, high, height)]
        at = high
    pieces.append((at, length, 0.0))
    return [_box(start, way, low, high, base, top) for low, high, base in pieces if high - low > 1e-6]


def _box(
    start: Mapping[str, float], way: tuple[float, float], low: float, high: float, base: float, top: float
) -> tuple[list[float], list[float]]:
    xs = sorted((start["x"] + way[0] * low, start["x"] + way[0] * high))
    zs = sorted((start["z"] + way[1] * low, start["z"] + way[1] * high))
    thin_x, thin_z = (WALL_HALF_M, 0.0) if way[0] == 0 else (0.0, WALL_HALF_M)
    return [xs[0] - thin_x, base, zs[0] - thin_z], [xs[1] + thin_x, top, zs[1] + thin_z]

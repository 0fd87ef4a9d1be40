"""A house as AI2-THOR's CreateHouse takes it: JSON of schema 1.0.0. Positions are the middles of bounding boxes."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from kinitro.environments.procthor.assets import DOORFRAME, FRONT_DOOR
from kinitro.environments.procthor.floorplan import CEILING_M, Opening, Side, WallPiece
from kinitro.environments.procthor.furnishing import Item, WallItem

if TYPE_CHECKING:
    from kinitro.environments.procthor.houses import House, States

# Any in this file: JSON documents.

SCHEMA: Final = "1.0.0"
AGENT_HEIGHT_M: Final = 0.95
"""Where AI2-THOR wants an agent's middle to be put so that it stands on the floor."""
_LAYERS: Final = 4
_CEILING: Final = "Drywall"
_DECIMALS: Final = 4


def house_document(house: "House", states: "States") -> dict[str, Any]:
    """The whole house."""
    windows = [item for item in house.on_walls if item.asset.object_type == "Window"]
    paintings = [item for item in house.on_walls if item.asset.object_type != "Window"]
    pose = _agent(house)
    return {
        "doors": [_door(opening, index) for index, opening in enumerate(house.plan.openings)],
        "metadata": {"agent": pose, "agentPoses": {"default": pose}, "schema": SCHEMA, "warnings": {}},
        "objects": [*(_object(item, house.small, states) for item in house.floor), *map(_painting, paintings)],
        "proceduralParameters": _parameters(house),
        "rooms": [_room(house, room) for room in house.plan.rooms],
        "walls": list(_walls(house)),
        "windows": [_window(item) for item in windows],
    }


def _vector(x: float, y: float, z: float) -> dict[str, float]:
    return {"x": round(x, _DECIMALS), "y": round(y, _DECIMALS), "z": round(z, _DECIMALS)}


def _agent(house: "House") -> dict[str, Any]:
    return {
        "position": _vector(house.start.x, AGENT_HEIGHT_M, house.start.z),
        "rotation": _vector(0, house.start.heading_deg, 0),
        "horizon": 0,
        "standing": True,
    }


def _layer(number: int) -> str:
    """AI2-THOR lights each layer by its own lamps; neighbours should differ."""
    return f"Procedural{number % _LAYERS}"


def _room(house: "House", room: Any) -> dict[str, Any]:
    rect = room.rect
    corners = ((rect.x0, rect.z0), (rect.x0, rect.z1), (rect.x1, rect.z1), (rect.x1, rect.z0))
    return {
        "ceilings": [],
        "children": [],
        "floorMaterial": {"name": house.materials[room.id]},
        "floorPolygon": [_vector(x, 0, z) for x, z in corners],
        "id": room.id,
        "layer": _layer(room.number),
        "roomType": room.room_type,
    }


# Walls and what is in them


def _walls(house: "House") -> Iterable[dict[str, Any]]:
    """Walls have one face each: one for every room beside them, and one to the outside."""
    material = {"name": house.materials["walls"]}
    for wall in house.plan.walls:
        yield _wall(_wall_id(wall), wall, wall.ends, material)
    for wall in house.plan.walls:
        if wall.beyond is None:
            yield _wall(_outer_id(wall), wall, (wall.ends[1], wall.ends[0]), material)


def _wall(
    wall_id: str, wall: WallPiece, ends: tuple[tuple[float, float], tuple[float, float]], material: dict[str, str]
) -> dict[str, Any]:
    return {
        "id": wall_id,
        "layer": _layer(wall.room.number),
        "material": material,
        "polygon": [_vector(x, y, z) for y in (0.0, CEILING_M) for x, z in ends],
        "roomId": wall.room.id,
    }


def _wall_id(wall: WallPiece) -> str:
    return f"wall|{wall.room.number}|{wall.place}"


def _outer_id(wall: WallPiece) -> str:
    return f"wall|exterior|{wall.place}"


def _beyond_id(wall: WallPiece) -> str:
    return f"wall|{wall.beyond.number}|{wall.place}" if wall.beyond else _outer_id(wall)


def _hole(wall: WallPiece, low: float, high: float, base: float, height: float) -> dict[str, Any]:
    """A rectangle in a wall, measured from the wall's start and from the floor."""
    start, end = (low - wall.low, high - wall.low) if wall.runs_upward else (wall.high - high, wall.high - low)
    return {
        "assetPosition": _vector((start + end) / 2, base + height / 2, 0),
        "holePolygon": [_vector(start, base, 0), _vector(end, base + height, 0)],
        "room0": wall.room.id,
        "room1": (wall.beyond or wall.room).id,
        "wall0": _wall_id(wall),
        "wall1": _beyond_id(wall),
        "openable": False,
        "openness": 0,
    }


def _door(opening: Opening, index: int) -> dict[str, Any]:
    asset = FRONT_DOOR if opening.front else DOORFRAME
    beyond = opening.wall.beyond.number if opening.wall.beyond else "exterior"
    return _hole(opening.wall, opening.low, opening.high, 0.0, asset.size_m[1]) | {
        "assetId": asset.asset_id,
        "id": f"door|{opening.wall.room.number}|{beyond}|{index}",
    }


def _window(item: WallItem) -> dict[str, Any]:
    low, high = item.span
    return _hole(item.wall, low, high, item.base_m, item.asset.size_m[1]) | {
        "assetId": item.asset.asset_id,
        "id": item.id,
    }


def _painting(item: WallItem) -> dict[str, Any]:
    inward = {Side.SOUTH: 1, Side.WEST: 1, Side.NORTH: -1, Side.EAST: -1}[item.wall.side]
    off = item.wall.at + inward * (item.asset.size_m[2] / 2 + 0.01)
    x, z = (off, item.middle) if item.wall.along_z else (item.middle, off)
    return {
        "assetId": item.asset.asset_id,
        "id": item.id,
        "kinematic": True,
        "layer": _layer(item.wall.room.number),
        "position": _vector(x, item.base_m + item.asset.size_m[1] / 2, z),
        "rotation": _vector(0, item.wall.side.value, 0),
    }


# Objects and light


def _object(item: Item, small: tuple[Item, ...], states: "States") -> dict[str, Any]:
    document: dict[str, Any] = {
        "assetId": item.asset.asset_id,
        "id": item.id,
        "kinematic": item.support is None,
        "layer": _layer(item.room.number),
        "position": _vector(item.x, item.base_m + item.asset.size_m[1] / 2, item.z),
        "rotation": _vector(0, item.rotation, 0),
    }
    if "open" in item.asset.abilities:
        document["openness"] = 1.0 if item.id in states.opened else 0.0
    if "toggle" in item.asset.abilities:
        document["isOn"] = item.id in states.on
    children = [_object(other, (), states) for other in small if other.support is item]
    return document | ({"children": children} if children else {})


def _parameters(house: "House") -> dict[str, Any]:
    return {
        "ceilingMaterial": {"name": _CEILING},
        "floorColliderThickness": 1.0,
        "lights": [_sun(), *(_lamp(room) for room in house.plan.rooms)],
        "receptacleHeight": 0.7,
        "reflections": [],
        "skyboxId": house.skybox,
    }


def _sun() -> dict[str, Any]:
    return {
        "id": "DirectionalLight",
        "indirectMultiplier": 1.0,
        "intensity": 1.0,
        "position": _vector(0.84, 0.1855, -1.09),
        "rgb": {"r": 1.0, "g": 1.0, "b": 1.0},
        "rotation": _vector(66, 75, 0),
        "shadow": _shadow(0.0),
        "type": "directional",
    }


def _lamp(room: Any) -> dict[str, Any]:
    x, z = room.rect.centre
    return {
        "id": f"light_{room.number}",
        "intensity": 0.45,
        "layer": _layer(room.number),
        "position": _vector(x, CEILING_M - 0.2, z),
        "range": 15,
        "rgb": {"r": 1.0, "g": 0.855, "b": 0.722},
        "shadow": _shadow(0.05),
        "type": "point",
    }


def _shadow(bias: float) -> dict[str, Any]:
    return {
        "bias": bias,
        "nearPlane": 0.2,
        "normalBias": 0.0,
        "resolution": "FromQualitySettings",
        "strength": 1.0,
        "type": "Soft",
    }

"""The stand-in's answers: metadata as AI2-THOR lays it out, and pictures drawn by casting rays at the boxes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinitro.environments.procthor.assets import Ability
from kinitro.testing.procthor.boxes import Thing
from kinitro.testing.procthor.world import AGENT_Y_M, CEILING_M, World

# Any in this file: metadata, as JSON.

Vector = NDArray[np.float64]
_COARSE = 3
"""Pictures are drawn at a third of their size: rays are what takes time."""
_WALL, _FLOOR, _CEILING, _LIGHT = (
    np.array(shade) for shade in ((214, 206, 194), (150, 120, 92), (240, 240, 240), (255, 240, 130))
)
_MOVEABLE = ("DiningTable", "ArmChair", "CoffeeTable", "TVStand", "FloorLamp", "HousePlant", "Bed", "Dresser", "Desk",
             "GarbageCan", "Television", "DeskLamp", "Microwave", "CoffeeMachine", "Safe")  # fmt: skip


def _xyz(vector: Vector) -> dict[str, float]:
    return {axis: float(value) for axis, value in zip("xyz", vector, strict=True)}


def agent_metadata(world: World, width: int, height: int, **said: Any) -> dict[str, Any]:
    """What an event says of the one agent there is. `standIn` is no key of AI2-THOR's."""
    held = world.held
    return {
        "standIn": True,
        "agent": {
            "name": "agent",
            "position": {"x": world.x, "y": AGENT_Y_M, "z": world.z},
            "rotation": {"x": 0.0, "y": world.yaw, "z": 0.0},
            "cameraHorizon": world.horizon,
            "isStanding": True,
            "inHighFrictionArea": False,
        },
        "agentId": 0,
        "arm": None,
        "cameraOrthSize": 0.0,
        "cameraPosition": _xyz(world.eye),
        "collided": False,
        "collidedObjects": [],
        "colors": [],
        "currentTime": 0.0,
        "depthFormat": "Meters",
        "fov": world.fov,
        "heldObjectPose": None if held is None else {"position": _xyz(held.middle), "rotation": _xyz(held.turn)},
        "inventoryObjects": [] if held is None else [{"objectId": held.id, "objectType": held.asset.object_type}],
        "isSceneAtRest": True,
        "objects": object_metadata(world),
        "sceneName": "Procedural",
        "screenHeight": height,
        "screenWidth": width,
        "thirdPartyCameras": [],
        **said,
    }


def object_metadata(world: World) -> list[dict[str, Any]]:
    """Every object with the keys that AI2-THOR's own have."""
    visible = world.visible()
    return [_object(world, thing, seen=thing.id in visible) for thing in world.things.values()]


def _object(world: World, thing: Thing, *, seen: bool) -> dict[str, Any]:
    able = thing.asset.abilities
    held_up = sorted(other.id for other in world.things.values() if other.support == thing.id)
    pickupable = Ability.PICK_UP in able
    holds = thing.asset.surface or thing.asset.object_type in ("Fridge", "Microwave", "Toilet", "Safe")
    return {
        "name": thing.id,
        "position": _xyz(thing.middle),
        "rotation": {"x": 0.0, "y": thing.rotation_y, "z": 0.0},
        "visible": seen,
        "isInteractable": seen,
        "receptacle": holds,
        "toggleable": Ability.TOGGLE in able,
        "isToggled": thing.on,
        "breakable": False,
        "isBroken": False,
        "canFillWithLiquid": False,
        "isFilledWithLiquid": False,
        "fillLiquid": None,
        "dirtyable": False,
        "isDirty": False,
        "canBeUsedUp": False,
        "isUsedUp": False,
        "cookable": False,
        "isCooked": False,
        "temperature": "RoomTemp",
        "isHeatSource": False,
        "isColdSource": False,
        "sliceable": False,
        "isSliced": False,
        "openable": Ability.OPEN in able,
        "isOpen": thing.open,
        "openness": 1.0 if thing.open else 0.0,
        "pickupable": pickupable,
        "isPickedUp": thing.held,
        "moveable": not pickupable and thing.asset.object_type in _MOVEABLE,
        "mass": 1.0,
        "salientMaterials": None,
        "receptacleObjectIds": held_up if holds else None,
        "distance": float(np.linalg.norm(thing.middle - np.array([world.x, AGENT_Y_M, world.z]))),
        "objectType": thing.asset.object_type,
        "objectId": thing.id,
        "assetId": thing.asset.asset_id,
        "parentReceptacles": None if thing.support is None else [thing.support],
        "controlledObjects": None,
        "isMoving": False,
        "axisAlignedBoundingBox": {
            "cornerPoints": _corners(thing.low, thing.high),
            "center": _xyz(thing.middle),
            "size": _xyz(2 * thing.half),
        },
        "objectOrientedBoundingBox": {"cornerPoints": _corners(thing.low, thing.high)} if pickupable else None,
    }


def _corners(low: Vector, high: Vector) -> list[list[float]]:
    return [
        [float(x), float(y), float(z)] for x in (high[0], low[0]) for y in (high[1], low[1]) for z in (high[2], low[2])
    ]


def draw(world: World, width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Colour (height, width, 3) and depth along the view (height, width), row 0 at the top."""
    columns, rows = -(-width // _COARSE), -(-height // _COARSE)
    across, down = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    rays = world.directions(across.ravel(), down.ravel())
    things, boxes = world.solid()
    index, distance = boxes.hits(world.eye, rays)
    level = np.where(rays[:, 1] < 0, -world.eye[1], CEILING_M - world.eye[1]) / np.where(
        np.abs(rays[:, 1]) < 1e-9, 1e-9, rays[:, 1]
    )
    beyond = level < distance
    distance = np.minimum(distance, level)
    palette = np.array([_shade(thing) for thing in things] + [_WALL] * (len(boxes.low) - len(things)))
    colour = palette[np.maximum(index, 0)] if len(palette) else np.zeros((len(rays), 3))
    colour = np.where(beyond[:, None], np.where((rays[:, 1] < 0)[:, None], _FLOOR, _CEILING), colour)
    point = world.eye + distance[:, None] * rays
    light = np.clip(1.15 - 0.07 * distance, 0.45, 1.0) * (0.92 + 0.08 * np.sign(np.sin(7 * point).prod(axis=1)))
    picture = (colour * light[:, None]).clip(0, 255).astype(np.uint8).reshape(rows, columns, 3)
    view = world.directions(np.array([0.5]), np.array([0.5]))[0]
    depth = (distance * (rays @ view)).astype(np.float32).reshape(rows, columns)
    return _enlarged(picture)[:height, :width], _enlarged(depth)[:height, :width]


def _enlarged(picture: NDArray[Any]) -> NDArray[Any]:
    return picture.repeat(_COARSE, axis=0).repeat(_COARSE, axis=1)


def _shade(thing: Thing) -> Vector:
    """A colour of its own for each type; brighter when on, darker when open."""
    seed = sum(ord(letter) * (index + 7) for index, letter in enumerate(thing.asset.object_type))
    base = np.array([60 + seed * 37 % 170, 60 + seed * 91 % 170, 60 + seed * 53 % 170], dtype=np.float64)
    if thing.on:
        return _LIGHT.astype(np.float64)
    return base * 0.5 if thing.open else base

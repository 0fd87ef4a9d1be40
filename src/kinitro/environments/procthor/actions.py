"""From our action channels to AI2-THOR's actions. Pure.

What a policy aims at is a pixel of the picture it has just seen, so it interacts before it moves.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import degrees
from typing import Final

from kinitro.environments.procthor.spec import (
    CONTROL_S,
    HAND_STEP_M,
    HAND_TURN_DEG,
    MAX_SPEED_M_S,
    MAX_TURN_DEG_S,
    STEP_M,
    TURN_DEG,
    Interact,
    Nav,
)
from kinitro.policy.messages import Action

_LEAST: Final = 1e-3
"""Commands smaller than this share of the largest are none."""


@dataclass(frozen=True)
class Call:
    """One of AI2-THOR's actions with its arguments."""

    action: str
    arguments: Mapping[str, float | bool] = field(default_factory=dict)


_INTERACT: Final[Mapping[Interact, Call]] = {
    Interact.PICK_UP: Call("PickupObject", {"forceAction": False, "manualInteract": False}),
    Interact.PUT: Call("PutObject", {"forceAction": False, "placeStationary": True}),
    Interact.OPEN: Call("OpenObject", {"forceAction": False, "openness": 1.0}),
    Interact.CLOSE: Call("CloseObject", {"forceAction": False}),
    Interact.TURN_ON: Call("ToggleObjectOn", {"forceAction": False}),
    Interact.TURN_OFF: Call("ToggleObjectOff", {"forceAction": False}),
}
_NAV: Final[Mapping[Nav, Call]] = {
    Nav.AHEAD: Call("MoveAhead", {"moveMagnitude": STEP_M}),
    Nav.BACK: Call("MoveBack", {"moveMagnitude": STEP_M}),
    Nav.LEFT: Call("MoveLeft", {"moveMagnitude": STEP_M}),
    Nav.RIGHT: Call("MoveRight", {"moveMagnitude": STEP_M}),
    Nav.TURN_LEFT: Call("RotateLeft", {"degrees": TURN_DEG}),
    Nav.TURN_RIGHT: Call("RotateRight", {"degrees": TURN_DEG}),
    Nav.LOOK_UP: Call("LookUp", {"degrees": TURN_DEG}),
    Nav.LOOK_DOWN: Call("LookDown", {"degrees": TURN_DEG}),
}
_CENTRE: Final = (0.5, 0.5)


def calls(action: Action) -> list[Call]:
    """What AI2-THOR is told, in order: the interaction, the hand, the base. `Pass` when there is nothing to do."""
    return [*_interaction(action), *_hand(action), *_base(action)] or [Call("Pass")]


def _interaction(action: Action) -> Iterator[Call]:
    verb = Interact(action.discrete.get("interact", Interact.NOTHING))
    if verb is not Interact.NOTHING:
        x, y = (float(value) for value in action.continuous.get("aim", _CENTRE))
        yield Call(_INTERACT[verb].action, {**_INTERACT[verb].arguments, "x": x, "y": y})


def _hand(action: Action) -> Iterator[Call]:
    """`ee_twist` moves and turns what is held: forward, left, up, then roll, pitch, yaw; there is no other arm."""
    if "ee_twist" not in action.continuous:
        return
    forward, left, up, roll, pitch, yaw = (float(value) for value in action.continuous["ee_twist"])
    if max(map(abs, (forward, left, up))) > _LEAST:
        yield Call(
            "MoveHeldObject",
            {"ahead": forward * HAND_STEP_M, "right": -left * HAND_STEP_M, "up": up * HAND_STEP_M},
        )
    if max(map(abs, (roll, pitch, yaw))) > _LEAST:
        yield Call(
            "RotateHeldObject",
            {"pitch": pitch * HAND_TURN_DEG, "yaw": -yaw * HAND_TURN_DEG, "roll": -roll * HAND_TURN_DEG},
        )


def _base(action: Action) -> Iterator[Call]:
    move = Nav(action.discrete.get("nav", Nav.STAY))
    if move is not Nav.STAY:
        yield _NAV[move]
    if "base_vel" in action.continuous:
        forward, left, turn = (float(value) for value in action.continuous["base_vel"])
        yield from _shift("MoveAhead", "MoveBack", forward)
        yield from _shift("MoveLeft", "MoveRight", left)
        yield from _turn(degrees(max(min(turn, 100.0), -100.0)))


def _shift(positive: str, negative: str, speed_m_s: float) -> Iterator[Call]:
    distance = max(min(speed_m_s, MAX_SPEED_M_S), -MAX_SPEED_M_S) * CONTROL_S
    if abs(distance) > _LEAST * STEP_M:
        yield Call(positive if distance > 0 else negative, {"moveMagnitude": abs(distance)})


def _turn(speed_deg_s: float) -> Iterator[Call]:
    angle = max(min(speed_deg_s, MAX_TURN_DEG_S), -MAX_TURN_DEG_S) * CONTROL_S
    if abs(angle) > _LEAST * TURN_DEG:
        yield Call("RotateLeft" if angle > 0 else "RotateRight", {"degrees": abs(angle)})

"""From our action channels to AI2-THOR's actions. Pure.

What a policy aims at is a pixel of the picture it has just seen, so it interacts before it moves. It moves once: the
player's time is ours, and what a policy chooses to command must hardly change how much of it a step takes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import degrees
from typing import Final

from kinitro.environments.procthor.spec import (
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


@dataclass(frozen=True)
class _Motion:
    """One way to move that is commanded; `share` says how much of the largest such command it is."""

    share: float
    call: Call


def calls(action: Action) -> list[Call]:
    """What AI2-THOR is told, in order: one interaction and one motion at most. `Pass` when there is nothing to do."""
    return [*_interaction(action), *_motion(action)] or [Call("Pass")]


def _motion(action: Action) -> list[Call]:
    """The largest motion of all that are commanded; of equals the first."""
    commanded = [motion for motion in (*_steps(action), *_base(action), *_hand(action)) if motion.share > _LEAST]
    return [max(commanded, key=lambda motion: motion.share).call] if commanded else []


def _interaction(action: Action) -> Iterator[Call]:
    verb = Interact(action.discrete.get("interact", Interact.NOTHING))
    if verb is not Interact.NOTHING:
        x, y = (float(value) for value in action.continuous.get("aim", _CENTRE))
        yield Call(_INTERACT[verb].action, {**_INTERACT[verb].arguments, "x": x, "y": y})


def _steps(action: Action) -> Iterator[_Motion]:
    move = Nav(action.discrete.get("nav", Nav.STAY))
    if move is not Nav.STAY:
        yield _Motion(1.0, _NAV[move])


def _base(action: Action) -> Iterator[_Motion]:
    if "base_vel" not in action.continuous:
        return
    forward, left, turn = (float(value) for value in action.continuous["base_vel"])
    yield _shift("MoveAhead", "MoveBack", forward)
    yield _shift("MoveLeft", "MoveRight", left)
    yield _turn(degrees(max(min(turn, 100.0), -100.0)))


def _shift(positive: str, negative: str, speed_m_s: float) -> _Motion:
    share = max(min(speed_m_s / MAX_SPEED_M_S, 1.0), -1.0)
    return _Motion(abs(share), Call(positive if share > 0 else negative, {"moveMagnitude": abs(share) * STEP_M}))


def _turn(speed_deg_s: float) -> _Motion:
    share = max(min(speed_deg_s / MAX_TURN_DEG_S, 1.0), -1.0)
    return _Motion(abs(share), Call("RotateLeft" if share > 0 else "RotateRight", {"degrees": abs(share) * TURN_DEG}))


def _hand(action: Action) -> Iterator[_Motion]:
    """`ee_twist` moves and turns what is held: forward, left, up, then roll, pitch, yaw; there is no other arm."""
    if "ee_twist" not in action.continuous:
        return
    forward, left, up, roll, pitch, yaw = (float(value) for value in action.continuous["ee_twist"])
    yield _Motion(
        max(map(abs, (forward, left, up))),
        Call("MoveHeldObject", {"ahead": forward * HAND_STEP_M, "right": -left * HAND_STEP_M, "up": up * HAND_STEP_M}),
    )
    yield _Motion(
        max(map(abs, (roll, pitch, yaw))),
        Call(
            "RotateHeldObject",
            {"pitch": pitch * HAND_TURN_DEG, "yaw": -yaw * HAND_TURN_DEG, "roll": -roll * HAND_TURN_DEG},
        ),
    )

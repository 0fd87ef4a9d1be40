"""What the stand-in accepts: AI2-THOR's actions that we use, each with its arguments. Anything else is an error."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Any in this file: actions as JSON.

_ALWAYS = frozenset({"action", "sequenceId", "renderImage"})
_AIMED = frozenset({"x", "y", "objectId", "forceAction"})


@dataclass(frozen=True)
class Rule:
    """The arguments an action may and must have. Of `one_of` it must have all of one set."""

    allowed: frozenset[str]
    needed: frozenset[str] = frozenset()
    one_of: tuple[frozenset[str], ...] = ()


_POINT = (frozenset({"x", "y"}), frozenset({"objectId"}))
RULES: Mapping[str, Rule] = {
    "Reset": Rule(frozenset({"sceneName"}), frozenset({"sceneName"})),
    "Initialize": Rule(
        frozenset(
            {
                "agentMode", "gridSize", "snapToGrid", "rotateStepDegrees", "visibilityDistance", "fieldOfView",
                "renderDepthImage", "renderInstanceSegmentation",
            }
        )
    ),
    "GetScenesInBuild": Rule(frozenset()),
    "ChangeResolution": Rule(frozenset({"x", "y"}), frozenset({"x", "y"})),
    "CreateHouse": Rule(frozenset({"house"}), frozenset({"house"})),
    "TeleportFull": Rule(
        frozenset({"position", "rotation", "horizon", "standing", "forceAction"}),
        frozenset({"position", "rotation", "horizon", "standing"}),
    ),
    "Pass": Rule(frozenset()),
    "MoveAhead": Rule(frozenset({"moveMagnitude"})),
    "MoveBack": Rule(frozenset({"moveMagnitude"})),
    "MoveLeft": Rule(frozenset({"moveMagnitude"})),
    "MoveRight": Rule(frozenset({"moveMagnitude"})),
    "RotateLeft": Rule(frozenset({"degrees"})),
    "RotateRight": Rule(frozenset({"degrees"})),
    "LookUp": Rule(frozenset({"degrees"})),
    "LookDown": Rule(frozenset({"degrees"})),
    "PickupObject": Rule(_AIMED | {"manualInteract"}, one_of=_POINT),
    "PutObject": Rule(_AIMED | {"placeStationary"}, one_of=_POINT),
    "OpenObject": Rule(_AIMED | {"openness"}, one_of=_POINT),
    "CloseObject": Rule(_AIMED, one_of=_POINT),
    "ToggleObjectOn": Rule(_AIMED, one_of=_POINT),
    "ToggleObjectOff": Rule(_AIMED, one_of=_POINT),
    "MoveHeldObject": Rule(frozenset({"ahead", "right", "up", "forceVisible"})),
    "RotateHeldObject": Rule(frozenset({"pitch", "yaw", "roll"})),
}  # fmt: skip


def objection(action: Mapping[str, Any]) -> tuple[str, str] | None:
    """AI2-THOR's error code and a message when the action or its arguments do not exist; None when all is well."""
    name = str(action.get("action"))
    rule = RULES.get(name)
    if rule is None:
        return "InvalidAction", f"{name} is no action of the stand-in."
    given = frozenset(action) - _ALWAYS
    if given - rule.allowed:
        return "InvalidArgument", f"{name} has no argument {', '.join(sorted(given - rule.allowed))}."
    if rule.needed - given:
        return "MissingArguments", f"{name} needs {', '.join(sorted(rule.needed - given))}."
    if rule.one_of and not any(each <= given for each in rule.one_of):
        return "MissingArguments", f"{name} needs x and y, or objectId."
    return None

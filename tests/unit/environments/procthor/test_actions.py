"""Our action channels as AI2-THOR's actions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinitro.environments.procthor.actions import calls
from kinitro.environments.procthor.spec import CONTINUOUS, Interact, Nav, specs
from kinitro.policy.codec import ActionSpace
from kinitro.policy.messages import Action
from kinitro.testing.procthor.table import objection


def told(continuous=None, **discrete):
    action = Action({name: np.array(values, dtype=float) for name, values in (continuous or {}).items()}, discrete)
    return [(call.action, dict(call.arguments)) for call in calls(action)]


def test_no_command_lets_one_step_pass():
    assert told() == [("Pass", {})]
    assert told({"base_vel": [0, 0, 0], "ee_twist": [0] * 6, "aim": [0.1, 0.2]}, nav=0, interact=0) == [("Pass", {})]


@pytest.mark.parametrize(
    ("nav", "action", "arguments"),
    [
        (Nav.AHEAD, "MoveAhead", {"moveMagnitude": 0.25}),
        (Nav.BACK, "MoveBack", {"moveMagnitude": 0.25}),
        (Nav.LEFT, "MoveLeft", {"moveMagnitude": 0.25}),
        (Nav.RIGHT, "MoveRight", {"moveMagnitude": 0.25}),
        (Nav.TURN_LEFT, "RotateLeft", {"degrees": 30}),
        (Nav.TURN_RIGHT, "RotateRight", {"degrees": 30}),
        (Nav.LOOK_UP, "LookUp", {"degrees": 30}),
        (Nav.LOOK_DOWN, "LookDown", {"degrees": 30}),
    ],
)
def test_each_way_to_move(nav, action, arguments):
    assert told(nav=int(nav)) == [(action, arguments)]


@pytest.mark.parametrize(
    ("verb", "action"),
    [
        (Interact.PICK_UP, "PickupObject"),
        (Interact.PUT, "PutObject"),
        (Interact.OPEN, "OpenObject"),
        (Interact.CLOSE, "CloseObject"),
        (Interact.TURN_ON, "ToggleObjectOn"),
        (Interact.TURN_OFF, "ToggleObjectOff"),
    ],
)
def test_each_interaction_is_aimed_by_a_pixel_and_never_forced(verb, action):
    ((name, arguments),) = told({"aim": [0.3, 0.8]}, interact=int(verb))
    assert name == action
    assert (arguments["x"], arguments["y"], arguments["forceAction"]) == (0.3, 0.8, False)
    assert "objectId" not in arguments


def test_without_an_aim_the_middle_of_the_picture_is_meant():
    ((_, arguments),) = told(interact=1)
    assert (arguments["x"], arguments["y"]) == (0.5, 0.5)


def test_what_is_seen_is_touched_before_anything_moves():
    assert [name for name, _ in told({"base_vel": [0, 0.2, 0]}, interact=1)] == ["PickupObject", "MoveLeft"]


@pytest.mark.parametrize(
    ("continuous", "nav", "moved"),
    [
        ({"base_vel": [0.5, 0.5, 9.0], "ee_twist": [1.0] * 6}, 8, "LookDown"),
        ({"base_vel": [0.5, 0.5, 9.0], "ee_twist": [1.0] * 6}, 0, "MoveAhead"),
        ({"base_vel": [0.1, -0.4, 0.5]}, 0, "MoveRight"),
        ({"base_vel": [0.1, -0.2, -0.8]}, 0, "RotateRight"),
        ({"base_vel": [0.25, 0.0, 0.0], "ee_twist": [0.6, 0, 0, 0, 0.2, 0]}, 0, "MoveHeldObject"),
        ({"base_vel": [0.25, 0.0, 0.0], "ee_twist": [0.6, 0, 0, 0, 0.7, 0]}, 0, "RotateHeldObject"),
    ],
)
def test_of_several_motions_a_step_makes_the_largest_and_of_equals_the_first(continuous, nav, moved):
    assert [name for name, _ in told(continuous, nav=nav)] == [moved]


def test_base_velocity_is_limited_to_a_step():
    assert told({"base_vel": [9.0, 0, 0]}) == [("MoveAhead", {"moveMagnitude": 0.25})]
    assert told({"base_vel": [0, -9.0, 0]}) == [("MoveRight", {"moveMagnitude": 0.25})]
    assert told({"base_vel": [0, 0, -9.0]}) == [("RotateRight", {"degrees": 30.0})]
    ((name, arguments),) = told({"base_vel": [-0.1, 0.0, 0.0]})
    assert (name, arguments["moveMagnitude"]) == ("MoveBack", pytest.approx(0.05))


def test_the_hand_moves_what_it_holds():
    assert told({"ee_twist": [1.0, 0.5, -1.0, 0, 0, 0]}) == [
        ("MoveHeldObject", {"ahead": 0.1, "right": -0.05, "up": -0.1})
    ]


channel = {name: st.lists(st.floats(-1e300, 1e300), min_size=size, max_size=size) for name, size in CONTINUOUS.items()}


@given(st.fixed_dictionaries({}, optional=channel), st.integers(0, 8), st.integers(0, 6))
def test_whatever_a_policy_commands_is_an_action_that_exists(continuous, nav, interact):
    from kinitro.policy.codec import BOUNDS

    bounded = {name: np.clip(values, *BOUNDS.get(name, (-1e300, 1e300))) for name, values in continuous.items()}
    made = calls(Action(bounded, {"nav": nav, "interact": interact}))
    assert 1 <= len(made) <= 2
    for call in made:
        assert objection({"action": call.action, **call.arguments}) is None
        assert all(np.isfinite(value) for value in call.arguments.values())


def test_the_catalogue_lists_as_many_values_as_there_are():
    (spec,) = specs()
    space = ActionSpace(spec.continuous, spec.discrete)
    assert space.discrete == {"nav": len(Nav), "interact": len(Interact)}

"""What is done and what is possible, on objects recorded from AI2-THOR itself.

The cases follow AI2-THOR's documentation (ai2thor.allenai.org/ithor/documentation: "Interactive Physics", "Object State
Changes", "Environment State"); they were written before the stand-in, and know nothing of it.
"""

import pytest

from kinitro.environments.procthor.tasks import Goal, TaskType, obstacle, success

from .recorded import objects, one, scenes

PICKUP, PLACE, OPEN, CLOSE, TOGGLE_ON, TOGGLE_OFF = TaskType


def goal(task_type, found, receptacle=None):
    return Goal(task_type, found["objectId"], receptacle and receptacle["objectId"])


def test_the_recorded_objects_are_all_there():
    assert len(scenes()) == 195
    assert len(objects()) == 8715
    assert len({tuple(sorted(found)) for found in objects()}) == 1


def test_an_object_is_picked_up_when_it_says_so():
    mug = one("Mug")
    assert not success(goal(PICKUP, mug), [mug])
    assert success(goal(PICKUP, mug), [mug | {"isPickedUp": True, "parentReceptacles": None}])


def test_only_pickupable_objects_can_be_picked_up():
    assert obstacle(goal(PICKUP, one("Mug")), [one("Mug")]) is None
    assert "not pickupable" in obstacle(goal(PICKUP, one("CounterTop")), [one("CounterTop")])


def test_the_hand_must_be_clear_of_anything_else_to_pick_up():
    mug, apple = one("Mug"), one("Apple", isPickedUp=True)
    assert "already holds" in obstacle(goal(PICKUP, mug), [mug, apple])
    held = mug | {"isPickedUp": True}
    assert obstacle(goal(PICKUP, mug), [held, one("Apple")]) is None


@pytest.mark.parametrize("openness", [0.25, 0.5, 1.0])
def test_an_object_is_open_at_any_openness_but_zero(openness):
    fridge = one("Fridge")
    assert not success(goal(OPEN, fridge), [fridge])
    assert success(goal(CLOSE, fridge), [fridge])
    ajar = fridge | {"isOpen": True, "openness": openness}
    assert success(goal(OPEN, fridge), [ajar])
    assert not success(goal(CLOSE, fridge), [ajar])


def test_recorded_objects_that_say_closed_at_full_openness_count_as_closed():
    odd = [found for found in objects() if found["openness"] == 1.0 and not found["isOpen"]]
    assert {found["objectType"] for found in odd} == {"Cabinet", "Drawer"}
    for found in odd:
        assert not success(goal(OPEN, found), [found])
        assert success(goal(CLOSE, found), [found])


def test_recorded_boxes_and_laptops_are_open_and_can_be_closed():
    for found in objects():
        if found["isOpen"]:
            assert success(goal(OPEN, found), [found])
            assert not success(goal(CLOSE, found), [found])
            assert obstacle(goal(CLOSE, found), [found]) is None


def test_recorded_lamps_that_are_on_are_on():
    lit = [found for found in objects() if found["isToggled"]]
    assert {found["objectType"] for found in lit} == {"LightSwitch", "DeskLamp", "FloorLamp"}
    for found in lit:
        assert success(goal(TOGGLE_ON, found), [found])
        assert not success(goal(TOGGLE_OFF, found), [found])
        assert success(goal(TOGGLE_OFF, found), [found | {"isToggled": False}])


def test_what_can_not_be_toggled_or_opened_says_so():
    book, sofa = one("Book"), one("Sofa")
    assert "not toggleable" in obstacle(goal(TOGGLE_ON, book), [book])
    assert "not openable" in obstacle(goal(OPEN, sofa), [sofa])


def test_a_broken_screen_can_not_be_switched():
    television = one("Television")
    assert obstacle(goal(TOGGLE_ON, television), [television]) is None
    assert "broken" in obstacle(goal(TOGGLE_ON, television), [television | {"isBroken": True}])


def test_every_recorded_object_lies_where_its_parents_say_and_nowhere_else():
    checked = 0
    for scene in scenes():
        ids = {found["objectId"]: found for found in scene}
        for found in scene:
            parents = [ids[parent] for parent in found["parentReceptacles"] or () if parent in ids]
            for parent in parents:
                checked += 1
                assert success(goal(PLACE, found, parent), scene)
            elsewhere = next(each for each in scene if each["receptacle"] and each not in parents)
            assert not success(goal(PLACE, found, elsewhere), scene)
    assert checked == 4970


def test_a_place_is_reached_only_when_the_object_has_left_the_hand():
    desk = one("Desk")
    mug = one("Mug", parentReceptacles=[desk["objectId"]])
    assert success(goal(PLACE, mug, desk), [mug, desk])
    assert not success(goal(PLACE, mug, desk), [mug | {"isPickedUp": True}, desk])
    assert not success(goal(PLACE, mug, desk), [mug | {"parentReceptacles": None}, desk])


def test_a_place_must_be_a_receptacle_that_is_there():
    mug, desk, painting = one("Mug"), one("Desk"), one("Painting")
    assert obstacle(goal(PLACE, mug, desk), [mug, desk]) is None
    assert "no receptacle" in obstacle(goal(PLACE, mug, painting), [mug, painting])
    assert "there is no" in obstacle(goal(PLACE, mug, desk), [mug])
    assert "no place" in obstacle(goal(PLACE, mug), [mug])
    assert "no place" in obstacle(goal(PLACE, mug, mug), [mug])


@pytest.mark.parametrize("task_type", TaskType)
def test_an_object_that_is_gone_is_never_done_and_never_possible(task_type):
    assert not success(Goal(task_type, "Egg|1|2|3", "Desk|1"), objects()[:50])
    assert "there is no" in obstacle(Goal(task_type, "Egg|1|2|3", "Desk|1"), objects()[:50])


def test_what_is_possible_is_what_the_recorded_abilities_say():
    ability = {
        PICKUP: "pickupable",
        OPEN: "openable",
        CLOSE: "openable",
        TOGGLE_ON: "toggleable",
        TOGGLE_OFF: "toggleable",
    }
    for found in objects():
        for task_type, key in ability.items():
            assert (obstacle(goal(task_type, found), [found]) is None) == found[key]

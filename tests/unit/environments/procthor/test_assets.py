"""Our asset table, against the objects recorded from AI2-THOR."""

import pytest

from kinitro.environments.procthor.assets import FLOOR, GOES_ON, SMALL, Ability

from .recorded import objects, scenes

TYPES = sorted({asset.object_type for asset in (*FLOOR, *SMALL)})
KEYS = {Ability.PICK_UP: "pickupable", Ability.OPEN: "openable", Ability.TOGGLE: "toggleable"}


@pytest.mark.parametrize("object_type", TYPES)
def test_what_we_say_a_type_can_do_all_recorded_ones_can(object_type):
    recorded = [found for found in objects() if found["objectType"] == object_type]
    assert recorded
    for asset in (*FLOOR, *SMALL):
        if asset.object_type == object_type:
            for ability in asset.abilities:
                assert all(found[KEYS[ability]] for found in recorded)


def test_every_surface_is_a_receptacle_in_nearly_all_recorded_cases():
    # Two recorded dressers are none: assets whose drawers alone are.
    for object_type in {asset.object_type for asset in FLOOR if asset.surface}:
        recorded = [found["receptacle"] for found in objects() if found["objectType"] == object_type]
        assert sum(recorded) >= 0.95 * len(recorded), object_type


def test_small_things_stand_only_on_surfaces_we_have():
    surfaces = {asset.object_type for asset in FLOOR if asset.surface}
    assert set(GOES_ON) == {asset.object_type for asset in SMALL}
    assert {place for places in GOES_ON.values() for place in places} <= surfaces


def test_the_recorded_scenes_hold_most_of_our_pairs_of_thing_and_surface():
    seen = set()
    for scene in scenes():
        types = {found["objectId"]: found["objectType"] for found in scene}
        for found in scene:
            seen |= {(found["objectType"], types.get(parent)) for parent in found["parentReceptacles"] or ()}
    pairs = {(thing, place) for thing, places in GOES_ON.items() for place in places}
    assert len(pairs & seen) >= 0.6 * len(pairs)


def test_no_asset_is_listed_twice():
    ids = [asset.asset_id for asset in (*FLOOR, *SMALL)]
    assert len(ids) == len(set(ids))

"""The stand-in keeps AI2-THOR's schema, is strict, and says what it is."""

import subprocess
import sys

import pytest

from kinitro.environments.base import STAND_IN_SUFFIX
from kinitro.environments.procthor.spec import specs
from kinitro.environments.procthor.tasks import draw_task
from kinitro.testing.procthor import stand_in_launch, stand_in_specs
from kinitro.testing.procthor.events import object_metadata
from kinitro.testing.procthor.player import Player
from kinitro.testing.procthor.table import RULES, objection
from kinitro.testing.procthor.world import World

from ...unit.environments.procthor.recorded import objects  # noqa: TID252 - one reader for all


@pytest.fixture(scope="module")
def metadata():
    world = World()
    world.load(draw_task(2).document())
    return object_metadata(world)


def kinds(values):
    return {type(value).__name__ for value in values}


def test_its_objects_have_exactly_the_recorded_keys(metadata):
    assert {tuple(sorted(found)) for found in metadata} == {tuple(sorted(objects()[0]))}


def test_its_values_have_types_that_are_recorded_for_the_same_keys(metadata):
    for key in metadata[0]:
        recorded = kinds(found[key] for found in objects())
        assert kinds(found[key] for found in metadata) <= recorded | {"float"}, key


def test_its_boxes_have_the_recorded_shape(metadata):
    recorded = objects()[0]["axisAlignedBoundingBox"]
    for found in metadata:
        box = found["axisAlignedBoundingBox"]
        assert {key: sorted(part) if isinstance(part, dict) else len(part) for key, part in box.items()} == {
            key: sorted(part) if isinstance(part, dict) else len(part) for key, part in recorded.items()
        }


def test_its_parents_and_children_agree_as_the_recorded_ones_do(metadata):
    by_id = {found["objectId"]: found for found in metadata}
    for found in metadata:
        for parent in found["parentReceptacles"] or ():
            assert found["objectId"] in by_id[parent]["receptacleObjectIds"]


@pytest.mark.parametrize("name", RULES)
def test_no_action_takes_an_argument_that_is_not_in_the_table(name):
    given = dict.fromkeys(RULES[name].needed | (RULES[name].one_of[0] if RULES[name].one_of else frozenset()), 0.5)
    assert objection({"action": name, **given}) is None
    assert objection({"action": name, **given, "objectid": "Mug"})[0] == "InvalidArgument"
    for needed in RULES[name].needed:
        left = {key: value for key, value in given.items() if key != needed}
        assert objection({"action": name, **left})[0] == "MissingArguments"


def test_an_unknown_action_and_a_missing_aim_are_refused():
    assert objection({"action": "Dance"})[0] == "InvalidAction"
    assert objection({"action": "PickupObject", "x": 0.5})[0] == "MissingArguments"


def test_every_line_it_logs_says_what_it_is(capsys):
    player = Player(headless=True)
    for action in ({"action": "Initialize"}, {"action": "Dance"}, {"action": "MoveAhead"}):
        player.act(action)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("STAND-IN for AI2-THOR") for line in lines)


def test_every_event_says_what_it_is():
    event, *_ = Player(headless=True).event(0)
    assert event["agents"][0]["standIn"] is True


def test_its_version_is_another_than_the_real_ones():
    assert [spec.version for spec in stand_in_specs()] == [spec.version + STAND_IN_SUFFIX for spec in specs()]
    assert stand_in_launch().stand_in


def test_no_module_of_production_mentions_it():
    code = (
        "import sys; import kinitro.cli, kinitro.executor, kinitro.environments.server;"
        "import kinitro.environments.procthor.adapter;"
        "print([name for name in sys.modules if name.startswith('kinitro.testing')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"

"""Household episodes on the stand-in: solvable by an expert, not by doing nothing, and decided by the seed."""

from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest

from kinitro.environments.procthor.launch import ServerType
from kinitro.environments.procthor.spec import Interact, Nav
from kinitro.environments.procthor.tasks import TaskType, draw_task
from kinitro.errors import EnvironmentFault
from kinitro.policy.messages import Action
from kinitro.testing.procthor import stand_in_launch

SEEDS = range(60)


def solves(environment, seed, steps=300):
    environment.reset(seed)
    return any(environment.step(environment.expert_action()).success for _ in range(steps))


@pytest.mark.timeout(300)
def test_an_expert_solves_nearly_all_of_sixty_seeds_of_all_six_kinds(make):
    environment = make()
    solved = {seed: solves(environment, seed) for seed in SEEDS}
    kinds = Counter(draw_task(seed).goal.task_type for seed in SEEDS)
    assert set(kinds) == set(TaskType)
    assert sum(solved.values()) >= 57, [seed for seed, done in solved.items() if not done]


def test_doing_nothing_solves_none(make):
    environment = make()
    for seed in SEEDS:
        environment.reset(seed)
        assert not any(environment.step(Action()).success for _ in range(3)), seed


def test_random_actions_break_nothing(make):
    environment = make()
    random = np.random.default_rng(0)
    for seed in range(2):
        environment.reset(seed)
        for _ in range(40):
            step = environment.step(
                Action(
                    {
                        "aim": random.random(2),
                        "base_vel": random.uniform(-2, 2, 3),
                        "ee_twist": random.uniform(-1, 1, 6),
                    },
                    {"nav": int(random.integers(len(Nav))), "interact": int(random.integers(len(Interact)))},
                )
            )
            assert all(np.isfinite(values).all() for values in step.observation.proprio.values())


def trace(environment, seed):
    environment.reset(seed)
    states = [environment.state()]
    for _ in range(40):
        environment.step(environment.expert_action())
        states.append(environment.state())
    return states


def test_the_seed_alone_decides_in_any_order_and_over_both_protocols(make):
    one = make()
    first = trace(one, 5)
    trace(one, 6)
    assert trace(one, 5) == first
    assert trace(make(launch=stand_in_launch(ServerType.WSGI)), 5) == first


def test_the_house_and_the_task_are_in_the_facts_and_not_in_what_the_policy_gets(make):
    environment = make(images=True, depth=True)
    observation = environment.reset(0)
    facts = environment.facts().values
    assert len(facts["house_sha256"]) == 64
    assert facts["target"] in {item.id for item in environment.task.house.items}
    assert facts["task_type"] == "place"
    assert set(observation.extra) == {"instruction", "last_action_success"}
    seen = repr(asdict(observation))
    for hidden in (facts["house_sha256"], *(item.id for item in environment.task.house.items)):
        assert str(hidden) not in seen


def test_worlds_that_differ_out_of_sight_look_the_same(make):
    """Opening a cupboard in another room changes the world, and nothing that the policy senses."""
    environment = make(images=True, depth=True)
    before = environment.reset(2)
    hidden = [
        found
        for found in environment.metadata["objects"]
        if found["toggleable"] and not found["visible"] and not found["isToggled"]
    ]
    unseen = next(
        found
        for found in hidden
        if next(item for item in environment.task.house.items if item.id == found["objectId"]).room.rect
        != next(
            room
            for room in environment.task.house.plan.rooms
            if room.rect.holds_point(environment.task.house.start.x, environment.task.house.start.z)
        ).rect
    )
    environment._started().must("ToggleObjectOn", objectId=unseen["objectId"], forceAction=True)
    after = environment.step(Action()).observation
    assert environment.state() != b""
    for name, values in before.proprio.items():
        assert values.tolist() == after.proprio[name].tolist()
    assert before.extra == after.extra
    assert (before.cam_extrinsics["ego"] == after.cam_extrinsics["ego"]).all()
    assert (before.rgb["ego"] == after.rgb["ego"]).mean() > 0.98


def test_a_command_that_can_not_be_obeyed_is_told_and_changes_nothing(make):
    environment = make()
    environment.reset(1)
    state = environment.state()
    step = environment.step(Action({"aim": np.array([0.5, 0.01])}, {"interact": int(Interact.PICK_UP)}))
    assert step.observation.extra["last_action_success"] == 0.0
    assert environment.state() == state


def test_the_hand_says_that_it_holds_something_and_moves_it(make):
    environment = make()
    seed = next(seed for seed in SEEDS if draw_task(seed).goal.task_type is TaskType.PICKUP)
    assert environment.reset(seed).proprio["gripper"].tolist() == [0.0]
    assert any((step := environment.step(environment.expert_action())).success for _ in range(300))
    assert step.observation.proprio["gripper"].tolist() == [1.0]
    held = next(found for found in environment.metadata["objects"] if found["isPickedUp"])
    environment.step(Action({"ee_twist": np.array([1.0, 0, 1.0, 0, 0, 1.0])}))
    moved = next(found for found in environment.metadata["objects"] if found["isPickedUp"])
    assert moved["position"]["y"] == pytest.approx(held["position"]["y"] + 0.1)


def test_a_house_in_which_the_task_is_impossible_is_our_fault(make, monkeypatch):
    environment = make()
    monkeypatch.setattr("kinitro.environments.procthor.adapter.obstacle", lambda *_: "the lamp is broken")
    with pytest.raises(EnvironmentFault, match="the lamp is broken") as caught:
        environment.reset(0)
    assert caught.value.code == "house_unfit"


def test_the_version_is_marked(make):
    assert make().spec.version.endswith("+standin")

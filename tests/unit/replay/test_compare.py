"""Two runs side by side: where they part, by whose doing, and when it can't be told."""

from dataclasses import replace

import numpy as np
import pytest

from kinitro.environments.trace import Steps
from kinitro.replay.compare import Answer, Run, compare
from kinitro.testing.records import made_up_record, made_up_steps
from kinitro.types import ErrorKind

STEPS = made_up_steps(5)


def run(steps: Steps | None = STEPS, **changes) -> Run:
    """A run with these steps, in which everything fits together."""
    known = steps or STEPS
    total = 0.0
    for reward in known.rewards.tolist():
        total += reward
    made = Run(
        success=bool(known.successes.any()),
        timesteps=len(known),
        total_reward=total,
        error=None,
        error_kind=None,
        error_code=None,
        trace_digest=known.digest(),
        tree_digest="t" * 64,
        image_digest=None,
        conditions=made_up_record().conditions,
        steps=steps,
    )
    return replace(made, **changes)


def with_simulation(**changes) -> Run:
    conditions = made_up_record().conditions
    assert conditions.simulation is not None
    return run(
        conditions=conditions.model_copy(update={"simulation": conditions.simulation.model_copy(update=changes)})
    )


def other_steps(**changes) -> Steps:
    return replace(STEPS, **changes)


def test_the_same_run_is_the_same() -> None:
    found = compare(run(), run())
    assert (found.answer, found.compared, found.findings) == (Answer.SAME, "digests", ())


def test_without_recorded_steps_digests_decide_and_the_place_is_unknown() -> None:
    assert compare(run(None), run()).answer is Answer.SAME
    found = compare(run(None, trace_digest="0" * 64), run())
    assert (found.answer, found.first_step) == (Answer.DIFFERENT, None)
    assert "where they part can't be told" in found.findings[1]


def test_a_policy_that_did_something_else_is_named_with_the_channel_and_both_values() -> None:
    rows = STEPS.continuous["ee_twist"].copy()
    rows[2, 1] = 0.25
    found = compare(run(), run(other_steps(continuous={**STEPS.continuous, "ee_twist": rows})))
    assert (found.answer, found.first_step) == (Answer.DIFFERENT, 3)
    was = float(STEPS.continuous["ee_twist"][2, 1])
    assert f"Step 3: shown the same, the policy did something else: ee_twist[1] 0.25 instead of {was!r}" in str(found)


def test_a_channel_that_got_no_command_is_told_from_one_that_got_zero() -> None:
    rows = STEPS.continuous["gripper"].copy()
    rows[1] = np.nan
    found = compare(run(), run(other_steps(continuous={**STEPS.continuous, "gripper": rows})))
    assert found.first_step == 2
    assert "gripper no command instead of" in str(found)


def test_a_discrete_command_is_compared_too() -> None:
    found = compare(run(), run(other_steps(discrete={"interact": (0, 1, None, 3, 4)})))
    assert found.first_step == 3
    assert "interact no command instead of 2" in str(found)


def test_another_picture_after_the_same_actions_is_not_the_policys_doing() -> None:
    seen = (*STEPS.seen[:3], b"another!", STEPS.seen[4])
    rows = STEPS.continuous["ee_twist"].copy()
    rows[3] += 1.0
    changed = other_steps(seen=seen, continuous={**STEPS.continuous, "ee_twist": rows})
    found = compare(run(), run(changed))
    assert found.first_step == 4
    assert "shown something else, after the same actions" in str(found)


def test_another_reward_for_the_same_action_is_the_simulators() -> None:
    rewards = STEPS.rewards.copy()
    rewards[4] = 7.0
    found = compare(run(), run(other_steps(rewards=rewards)))
    assert found.first_step == 5
    assert "the same action earned reward 7.0" in str(found)


def test_a_final_state_that_differs_alone_is_said() -> None:
    found = compare(run(), run(other_steps(state_sha256=b"x" * 32)))
    assert (found.answer, found.first_step) == (Answer.DIFFERENT, 5)
    assert "final state is not" in str(found)


def test_one_that_goes_on_longer_parts_after_the_other_ends() -> None:
    longer = made_up_steps(7)
    first = replace(longer, successes=np.array([*STEPS.successes, False, False]))
    found = compare(run(), run(first))
    assert found.first_step == 6
    assert "recorded 5, here 7" in str(found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trace_digest": "0" * 64}, "trace digest is not that of its steps"),
        ({"total_reward": 99.0}, "total reward is not the sum"),
        ({"timesteps": 4}, "says 4 steps and has 5"),
        ({"success": False}, "its steps say success"),
    ],
    ids=["digest", "reward", "length", "verdict"],
)
def test_a_record_that_was_changed_in_one_place_contradicts_itself(changes, words) -> None:
    found = compare(run(**changes), run())
    assert found.answer is Answer.DIFFERENT
    assert words in str(found.findings)


def test_a_record_whose_verdict_alone_was_flipped_is_found_without_steps() -> None:
    found = compare(run(None, success=False), run())
    assert found.answer is Answer.DIFFERENT
    assert "Recorded is failure (no success) after 5 steps; here it was success" in str(found)


def test_other_files_under_the_same_revision_are_named() -> None:
    found = compare(run(), run(tree_digest="u" * 64))
    assert (found.answer, found.compared) == (Answer.DIFFERENT, "the policies' files")
    assert "u" * 64 in str(found)


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        (run(image_digest="sha256:1"), "the image was sha256:1, here it is none"),
        (with_simulation(architecture="aarch64"), "the architecture was aarch64"),
        (with_simulation(stack={"python": "3.13.0"}), "python 3.13.0, here 3.11.9"),
        (
            run(conditions=made_up_record(simulation=None).conditions),
            "does not say what the simulator ran on",
        ),
    ],
    ids=["image", "architecture", "versions", "unknown"],
)
def test_elsewhere_only_verdicts_are_compared_and_that_is_said(recorded, words) -> None:
    changed = other_steps(state_sha256=b"x" * 32)
    found = compare(recorded, run(changed))
    assert (found.answer, found.compared) == (Answer.SAME, "verdicts")
    assert words in found.findings[0]
    failing = run(made_up_steps(5), success=False, error_kind=ErrorKind.POLICY)
    assert compare(recorded, failing).answer is Answer.DIFFERENT


def test_a_processor_of_another_name_is_still_compared_and_noted_when_they_differ() -> None:
    elsewhere = with_simulation(stack={"python": "3.11.9", "processor": "Other CPU"})
    assert compare(elsewhere, run()).answer is Answer.SAME
    found = compare(elsewhere, run(other_steps(state_sha256=b"x" * 32)))
    assert "Other CPU" in found.findings[-1]


def test_another_version_of_the_environment_gives_no_answer() -> None:
    found = compare(run(conditions=made_up_record(environment_version="line-0").conditions), run())
    assert (found.answer, found.compared) == (Answer.UNDECIDED, "nothing")
    assert "line-0" in str(found)


def test_a_lateness_that_does_not_come_back_is_undecided_when_all_before_is_the_same() -> None:
    late_steps = replace(made_up_steps(5), successes=np.zeros(5, np.bool_))
    late = run(late_steps, error="too late", error_kind=ErrorKind.POLICY, error_code="timeout")
    longer = made_up_steps(7)
    found = compare(late, run(longer))
    assert found.answer is Answer.UNDECIDED
    assert "How late a policy is depends on the machine" in str(found)

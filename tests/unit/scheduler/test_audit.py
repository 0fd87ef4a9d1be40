"""The rules of audits, and that no luck and no policy can make them turn on an honest executor."""

import random
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinitro.scheduler.audit import QUARANTINE_ALPHA, Ask, Finding, is_beyond_luck, is_drawn, judge
from kinitro.storage import AuditRun
from kinitro.types import AuditState

ALL = ("a", "b", "c")


def run(executor: str, success: bool = True, **more) -> AuditRun:
    return AuditRun(executor, success, **more)


def traced(executor: str, trace: str, **more) -> AuditRun:
    return run(executor, **({"trace_digest": trace, "image_digest": "sha256:1", "simulation": "{}"} | more))


def after(*runs: AuditRun, able=ALL, is_steady: bool = True) -> Ask | Finding | None:
    return judge(runs, able, is_steady=is_steady)


# Whom it asks


def test_the_first_further_run_is_for_anyone_but_whose_verdict_is_checked() -> None:
    assert after(run("a")) == Ask(barred=("a",))


def test_with_one_executor_alive_it_waits() -> None:
    assert after(run("a"), able=["a"]) is None


def test_two_that_agree_are_enough() -> None:
    assert after(run("a"), run("b")) == Finding(AuditState.AGREED)


def test_two_that_differ_need_a_third_and_the_third_runs_it_twice() -> None:
    dispute = run("a"), run("b", success=False)
    assert after(*dispute) == Ask(barred=("a", "b"))
    assert after(*dispute, run("c")) == Ask(only="c")


def test_of_two_executors_each_runs_it_again_and_then_nothing_can_be_said_without_a_third() -> None:
    dispute = [run("a"), run("b", success=False)]
    assert after(*dispute, able=["a", "b"]) == Ask(only="a")
    dispute.append(run("a"))
    assert after(*dispute, able=["a", "b"]) == Ask(only="b")
    dispute.append(run("b", success=False))
    assert after(*dispute, able=["a", "b"]) is None
    assert after(*dispute, able=ALL) == Ask(barred=("a", "b"))


# What it finds


@pytest.mark.parametrize(("truth", "liar"), [(True, "b"), (False, "a")])
def test_the_third_decides_against_one_of_the_two(truth: bool, liar: str) -> None:
    found = after(run("a"), run("b", success=False), run("c", truth), run("c", truth))
    assert found == Finding(AuditState.CONTRADICTED, contradicted=liar)


def test_a_third_that_contradicts_itself_shows_an_unsteady_policy_and_accuses_nobody() -> None:
    found = after(run("a"), run("b", success=False), run("c", True), run("c", False))
    assert found == Finding(AuditState.VOID, is_unsteady=True)


def test_one_of_two_that_contradicts_itself_shows_it_too() -> None:
    found = after(run("a"), run("b", success=False), run("a", success=False), able=["a", "b"])
    assert found == Finding(AuditState.VOID, is_unsteady=True)


def test_traces_that_differ_are_a_dispute_though_the_verdict_is_the_same() -> None:
    assert after(traced("a", "1"), traced("b", "2")) == Ask(barred=("a", "b"))
    found = after(traced("a", "1"), traced("b", "2"), traced("c", "1"), traced("c", "1"))
    assert found == Finding(AuditState.CONTRADICTED, contradicted="b")


def test_a_third_that_sides_with_neither_shows_a_policy_whose_traces_say_nothing() -> None:
    found = after(traced("a", "1"), traced("b", "2"), traced("c", "3"), traced("c", "3"))
    assert found == Finding(AuditState.VOID, is_unsteady=True)


@pytest.mark.parametrize(
    ("more", "is_steady"),
    [
        ({}, False),
        ({"image_digest": "sha256:2"}, True),
        ({"image_digest": None}, True),
        ({"simulation": '{"architecture": "other"}'}, True),
        ({"simulation": None}, True),
        ({"trace_digest": None}, True),
        ({"is_error": True}, True),
    ],
    ids=[
        "an unsteady policy",
        "another image",
        "no image",
        "another machine",
        "an unknown machine",
        "no trace",
        "cut short by the policy's failure",
    ],
)
def test_traces_that_can_not_be_compared_are_not(more: dict[str, object], is_steady: bool) -> None:
    other = traced("b", **({"trace": "2"} | more)) if "trace_digest" not in more else run("b", image_digest="sha256:1")
    assert after(traced("a", "1"), other, is_steady=is_steady) == Finding(AuditState.AGREED)


def test_other_files_are_a_dispute_of_whatever_policy() -> None:
    files = [run("a", tree_digest="1"), run("b", tree_digest="2")]
    assert after(*files, is_steady=False) == Ask(barred=("a", "b"))
    found = after(*files, run("c", tree_digest="2"), run("c", tree_digest="2"), is_steady=False)
    assert found == Finding(AuditState.CONTRADICTED, contradicted="a")


# Whose verdicts are checked


@given(st.binary(min_size=32, max_size=32), st.text(max_size=60), st.integers(0, 9999))
def test_rate_zero_draws_nothing_and_rate_one_everything(salt: bytes, hotkey: str, index: int) -> None:
    assert not is_drawn(salt, hotkey, "a/b", index, 0.0)
    assert is_drawn(salt, hotkey, "a/b", index, 1.0)


def test_a_share_is_drawn_and_another_salt_draws_others() -> None:
    drawn = [{i for i in range(20_000) if is_drawn(bytes([salt]) * 32, "5Hot", "a/b", i, 0.02)} for salt in (1, 2)]
    assert all(300 < len(chosen) < 500 for chosen in drawn)
    assert len(drawn[0] & drawn[1]) < 40


# Luck


def paths(
    runs: tuple[AuditRun, ...], chance: Fraction, p: Fraction, able: tuple[str, ...]
) -> Iterator[tuple[Finding, Fraction]]:
    """Every way an audit of honest executors can go, with its probability; a run succeeds with probability p."""
    step = judge(runs, able, is_steady=True)
    if isinstance(step, Finding):
        yield step, chance
    elif step is not None:
        who = step.only or next(one for one in able if one not in step.barred)
        for success, share in ((True, p), (False, 1 - p)):
            yield from paths((*runs, run(who, success)), chance * share, p, able)
    elif len(able) < len(ALL):  # a third comes at last
        yield from paths(runs, chance, p, ALL)


@given(st.fractions(0, 1), st.sampled_from([("a", "b"), ALL]))
def test_whatever_a_policy_does_by_chance_a_dispute_of_honest_executors_is_a_fair_coin(p: Fraction, able) -> None:
    lost = dict.fromkeys(ALL, Fraction(0))
    for success, share in ((True, p), (False, 1 - p)):
        for finding, chance in paths((run("a", success),), share, p, able):
            if finding.contradicted:
                lost[finding.contradicted] += chance
    assert lost["a"] == lost["b"]
    assert lost["c"] == 0


def test_a_fair_coin_reaches_quarantine_at_any_time_with_less_than_the_promised_chance() -> None:
    alive, caught = {0: 1.0}, 0.0
    for disputes in range(1, 400):
        after_next: dict[int, float] = {}
        for lost, chance in alive.items():
            for more in (lost, lost + 1):
                if is_beyond_luck(more, disputes - more):
                    caught += chance / 2
                else:
                    after_next[more] = after_next.get(more, 0.0) + chance / 2
        alive = after_next
    assert 0.001 < caught <= QUARANTINE_ALPHA


def test_ten_miners_in_a_row_are_beyond_luck_and_nine_are_not() -> None:
    assert is_beyond_luck(10, 0)
    assert not is_beyond_luck(9, 0)
    assert not is_beyond_luck(10, 10)
    assert not is_beyond_luck(0, 1000)


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_honest_executors_of_a_deterministic_policy_are_never_contradicted_in_any_order(seed: int, bias: float) -> None:
    chance = random.Random(seed)
    truth = chance.random() < bias
    for _ in range(20):
        names = chance.sample([*ALL, "d", "e"], k=chance.randint(2, 5))
        runs: tuple[AuditRun, ...] = (traced(names[0], "t", success=truth),)
        while isinstance(step := judge(runs, names, is_steady=True), Ask):
            who = chance.choice([one for one in names if one not in step.barred])
            runs = (*runs, traced(who, "t", success=truth))
        assert step == Finding(AuditState.AGREED)

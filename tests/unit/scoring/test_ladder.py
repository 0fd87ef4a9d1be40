import random as shuffling
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinitro.schemas import CycleExport, RuleOut
from kinitro.scoring import InvalidExport, pack_outcomes, score_cycle
from kinitro.scoring.evidence import count_bits, count_bits_by_table
from kinitro.types import MinerState

from .conftest import MakeExport, Table, build_export

EPISODES = 20


@st.composite
def fields(draw: st.DrawFn, *, least: int = 1) -> tuple[dict[int, Table], list[dict[int, Table]]]:
    """Success tables of 1 to 5 miners of very different strength, with up to two earlier cycles."""
    shape = (draw(st.integers(1, 3)), EPISODES)
    rates = draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.6, 0.9, 1.0]), min_size=least, max_size=5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cycles = [
        {uid: random.random(shape) < rate for uid, rate in enumerate(rates)} for _ in range(1 + draw(st.integers(0, 2)))
    ]
    return cycles[0], cycles[1:]


def prizes(export: CycleExport) -> dict[str, int | None]:
    return score_cycle(export).prizes


def table(*rates: float, episodes: int = 100) -> Table:
    """The first `rate` of the episodes succeed, in each environment."""
    return np.arange(episodes)[None, :] < np.round(np.array(rates)[:, None] * episodes)


def test_the_first_in_line_holds_what_nobody_takes(make_export: MakeExport) -> None:
    export = make_export({3: table(0.5, 0.5), 7: table(0.5, 0.5)}, places={3: 9, 7: 4})
    score = score_cycle(export)
    assert score.prizes == {"crown": 7, "sim/task-0": 7, "sim/task-1": 7}
    assert score.points == {3: 0, 7: 6}
    assert score.weights == {7: 1.0}
    assert (score.weights_u16.uids, score.weights_u16.values) == ([7], [65535])


def test_a_clearly_better_challenger_takes_the_crown_and_the_badges(make_export: MakeExport) -> None:
    assert prizes(make_export({0: table(0.4, 0.4), 1: table(0.8, 0.8)})) == {
        "crown": 1,
        "sim/task-0": 1,
        "sim/task-1": 1,
    }


def test_a_challenger_shown_to_be_worse_somewhere_gets_no_crown_but_its_badge(make_export: MakeExport) -> None:
    found = prizes(make_export({0: table(0.2, 0.2, 0.8), 1: table(0.9, 0.9, 0.3)}))
    assert found == {"crown": 0, "sim/task-0": 1, "sim/task-1": 1, "sim/task-2": 0}


def test_points_become_weights_by_the_square_of_the_environments(make_export: MakeExport) -> None:
    score = score_cycle(make_export({0: table(0.2, 0.2, 0.8), 1: table(0.9, 0.9, 0.3)}))
    assert score.points == {0: 10, 1: 2}
    assert score.weights == pytest.approx({0: 10 / 12, 1: 2 / 12})
    assert score.weights_u16.values == [65535, round(65535 / 5)]


def test_evidence_of_earlier_cycles_adds_up(make_export: MakeExport) -> None:
    one = {0: table(0.50, episodes=50), 1: table(0.56, episodes=50)}
    assert prizes(make_export(one))["crown"] == 0
    assert prizes(make_export(one, earlier=[one] * 6))["crown"] == 1


def test_evidence_counts_only_episodes_that_both_met(make_export: MakeExport) -> None:
    now = {0: table(0.5, episodes=50), 1: table(0.52, episodes=50)}
    before = {0: table(0.0, episodes=50)}
    strong = {0: table(0.0, episodes=50), 1: table(1.0, episodes=50)}
    assert prizes(make_export(now, earlier=[before] * 6))["crown"] == 0
    assert prizes(make_export(now, earlier=[strong] * 6))["crown"] == 1


def test_the_further_back_in_line_the_more_evidence_is_asked_for(make_export: MakeExport) -> None:
    success = {0: table(0.50), 1: table(0.62)}
    assert prizes(make_export(success, places={0: 1, 1: 2}))["crown"] == 1
    assert prizes(make_export(success, places={0: 1, 1: 300}))["crown"] == 0


def test_a_miner_with_less_than_90_percent_evaluated_is_not_eligible(make_export: MakeExport) -> None:
    ran = np.ones((1, 100), dtype=bool)
    ran[0, 90:] = False
    both = {0: table(0.5), 1: table(0.5)}
    assert prizes(make_export(both, evaluated={0: ran}))["crown"] == 0
    ran = ran.copy()
    ran[0, 89] = False
    assert prizes(make_export(both, evaluated={0: ran}))["crown"] == 1


def test_an_infrastructure_failure_counts_neither_for_nor_against(make_export: MakeExport) -> None:
    ran = np.ones((1, 100), dtype=bool)
    ran[0, 95:] = False
    record = score_cycle(make_export({0: table(0.5)}, evaluated={0: ran})).records[0]["sim/task-0"]
    assert (record.completed, record.failed) == (95, 5)
    assert record.success_rate == 50 / 95
    assert record.mean_reward == pytest.approx(2.0 * 50 / 95)
    assert record.low < 50 / 95 < record.high


def test_a_policy_failure_is_a_failed_episode_whatever_it_claims(make_export: MakeExport) -> None:
    export = make_export({0: table(1.0, episodes=10)})
    broken = [e.model_copy(update={"error_kind": "policy", "error": "timeout"}) for e in export.episodes]
    record = score_cycle(export.model_copy(update={"episodes": broken})).records[0]["sim/task-0"]
    assert (record.success_rate, record.completed, record.failed) == (0.0, 10, 0)


def test_a_missing_episode_is_one_without_a_verdict(make_export: MakeExport) -> None:
    export = make_export({0: table(1.0, episodes=10)})
    record = score_cycle(export.model_copy(update={"episodes": export.episodes[:9]})).records[0]["sim/task-0"]
    assert (record.completed, record.failed) == (9, 1)


def test_a_copy_is_shown_with_nothing(make_export: MakeExport) -> None:
    export = make_export(
        {0: table(0.5), 1: table(1.0), 2: table(1.0)},
        states={1: MinerState.COPY},
        places={0: 1, 1: None, 2: None},
    )
    score = score_cycle(export)
    assert score.points == {0: 2, 1: 0, 2: 0}
    assert set(score.success_rates) == {0, 2}
    assert score.pareto_frontier == (0,)


def test_the_frontier_holds_whoever_no_other_dominates(make_export: MakeExport) -> None:
    success = {0: table(0.9, 0.1), 1: table(0.1, 0.9), 2: table(0.1, 0.1), 3: table(0.85, 0.1)}
    assert score_cycle(make_export(success)).pareto_frontier == (0, 1, 3)


@pytest.mark.parametrize("temperature", [1e-6, 0.5, 1.0, 2.0, 1e6])
def test_weights_sum_to_one_at_any_temperature(make_export: MakeExport, temperature: float) -> None:
    rule = RuleOut(temperature=temperature)
    score = score_cycle(make_export({0: table(0.2, 0.2, 0.8), 1: table(0.9, 0.9, 0.3)}, rule=rule))
    assert sum(score.weights.values()) == pytest.approx(1.0)
    assert max(score.weights_u16.values) == 65535
    assert 0 not in score.weights_u16.values


def test_with_no_points_everything_burns_or_nothing_is_set(make_export: MakeExport) -> None:
    nobody = {0: table(0.0), 1: table(0.0)}
    score = score_cycle(make_export(nobody))
    assert (score.prizes, score.weights) == ({"crown": None, "sim/task-0": None}, {})
    assert score.weights_u16.uids == []
    score = score_cycle(make_export(nobody, rule=RuleOut(burn_uid=9)))
    assert score.weights == {9: 1.0}


def test_no_miners_and_no_episodes_are_no_error(make_export: MakeExport) -> None:
    assert score_cycle(make_export({})).weights == {}
    export = make_export({0: table(1.0)})
    score = score_cycle(export.model_copy(update={"episodes": []}))
    assert score.prizes["crown"] is None
    assert score.records[0]["sim/task-0"].success_rate == 0.0
    assert score.pareto_frontier == ()


def test_one_miner_holds_everything(make_export: MakeExport) -> None:
    assert score_cycle(make_export({5: table(0.01, 0.01)}, places={5: 77})).weights == {5: 1.0}


def test_the_json_form_is_the_contracts(make_export: MakeExport) -> None:
    document = score_cycle(make_export({0: table(0.5)})).document()
    assert document == {
        "success_rates": {0: {"sim/task-0": 0.5}},
        "pareto_frontier": [0],
        "prizes": {"crown": 0, "sim/task-0": 0},
        "points": {0: 2},
        "weights": {0: 1.0},
        "weights_u16": {"uids": [0], "values": [65535]},
    }


def test_packed_outcomes_are_what_later_cycles_read(make_export: MakeExport) -> None:
    ran = np.ones((1, 10), dtype=bool)
    ran[0, 9] = False
    packed = pack_outcomes(make_export({4: table(0.3, episodes=10)}, evaluated={4: ran}))
    assert packed == {(4, "sim/task-0"): (bytes([0xFF, 0x01]), bytes([0x07, 0x00]))}


@given(fields(least=2), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_input_does_not_matter(
    field: tuple[dict[int, Table], list[dict[int, Table]]], order: shuffling.Random
) -> None:
    export = build_export(field[0], earlier=field[1])
    mixed = {
        name: order.sample(getattr(export, name), len(getattr(export, name)))
        for name in ("miners", "episodes", "history", "environments")
    }
    turned = [row.model_copy(update={"success": dict(reversed(row.success.items()))}) for row in mixed["history"]]
    shuffled = export.model_copy(update=mixed | {"history": turned})
    assert score_cycle(shuffled).document() == score_cycle(export).document()


@given(fields(), st.data())
@settings(max_examples=40, deadline=None)
def test_an_exact_copy_committed_later_takes_nothing_from_anyone(
    field: tuple[dict[int, Table], list[dict[int, Table]]], data: st.DataObject
) -> None:
    now, earlier = field
    original = data.draw(st.sampled_from(sorted(now)))
    copied = [cycle | {99: cycle[original]} for cycle in (now, *earlier)]
    after = score_cycle(build_export(copied[0], earlier=copied[1:]))
    assert after.prizes == prizes(build_export(now, earlier=earlier))
    assert not any(duel.overtakes for walk in after.walks.values() for duel in walk.duels if duel.challenger == 99)


def test_steps_within_epsilon_can_add_up_over_several_holders(make_export: MakeExport) -> None:
    # What the rule does not prevent (docs/scoring.md): uid 1 is shown to be worse than uid 0 in the first environment,
    # yet the same outcomes behind uid 2, half way between, take the crown.
    draws = np.random.default_rng(1).random((4, 1000))
    first, between, blocked = (
        draws < np.array(rates)[:, None]
        for rates in ([0.90, 0.3, 0.3, 0.3], [0.86, 0.5, 0.5, 0.5], [0.82, 0.8, 0.8, 0.8])
    )
    assert prizes(make_export({0: first, 1: blocked}))["crown"] == 0
    assert prizes(make_export({0: first, 1: blocked, 2: between}))["crown"] == 2
    assert prizes(make_export({0: first, 1: blocked, 2: between, 3: blocked}))["crown"] == 3


@given(fields())
@settings(max_examples=30, deadline=None)
def test_a_latest_miner_that_fails_everywhere_changes_nobodys_prizes(
    field: tuple[dict[int, Table], list[dict[int, Table]]],
) -> None:
    now, earlier = field
    joined = [cycle | {99: np.zeros_like(cycle[0])} for cycle in (now, *earlier)]
    assert prizes(build_export(joined[0], earlier=joined[1:])) == prizes(build_export(now, earlier=earlier))


@given(fields(least=2), st.data())
@settings(max_examples=60, deadline=None)
def test_turning_a_miners_own_failure_into_a_success_never_costs_it_a_prize(
    field: tuple[dict[int, Table], list[dict[int, Table]]], data: st.DataObject
) -> None:
    now, earlier = field
    uid = data.draw(st.sampled_from(sorted(now)))
    better = now[uid].copy()
    better[data.draw(st.integers(0, better.shape[0] - 1)), data.draw(st.integers(0, EPISODES - 1))] = True
    before = prizes(build_export(now, earlier=earlier))
    after = prizes(build_export(now | {uid: better}, earlier=earlier))
    assert {prize for prize, holder in before.items() if holder == uid} <= {
        prize for prize, holder in after.items() if holder == uid
    }


@given(fields(least=2), st.data())
@settings(max_examples=40, deadline=None)
def test_a_miner_that_is_not_eligible_blocks_nobody(
    field: tuple[dict[int, Table], list[dict[int, Table]]], data: st.DataObject
) -> None:
    now, earlier = field
    uid = data.draw(st.sampled_from(sorted(now)))
    ran = np.ones_like(now[uid])
    ran[:, : EPISODES // 5] = False
    without = [{other: rows for other, rows in cycle.items() if other != uid} for cycle in (now, *earlier)]
    places = {other: other + 1 for other in now}
    assert prizes(build_export(now, earlier=earlier, evaluated={uid: ran})) == prizes(
        build_export(without[0], earlier=without[1:], places=places)
    )


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_both_ways_of_counting_bits_agree(words: list[int]) -> None:
    array = np.array([words], dtype=np.uint64)
    expected = [sum(word.bit_count() for word in words)]
    assert count_bits(array).tolist() == count_bits_by_table(array).tolist() == expected


def first_history(update: Mapping[str, object]) -> dict[str, object]:
    export = build_export({0: table(0.5, episodes=10)}, earlier=[{0: table(0.5, episodes=10)}])
    return {"history": [export.history[0].model_copy(update=dict(update))]}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda e: {"miners": [*e.miners, e.miners[0]]}, "uid appears twice"),
        (lambda e: {"miners": [e.miners[0], e.miners[0].model_copy(update={"uid": 1})]}, "place appears twice"),
        (lambda e: {"miners": [e.miners[0].model_copy(update={"place": 0})]}, "not positive"),
        (lambda e: {"environments": ["sim/task-0", "sim/task-0"]}, "environment appears twice"),
        (lambda e: {"episodes": [*e.episodes, e.episodes[3]]}, "episode appears twice"),
        (lambda e: {"episodes": [e.episodes[0].model_copy(update={"index": 10})]}, "index beyond 9"),
        (lambda e: {"episodes": [e.episodes[0].model_copy(update={"uid": 5})]}, "names 5"),
        (lambda e: {"episodes": [e.episodes[0].model_copy(update={"env_id": "sim/other"})]}, "sim/other"),
        (lambda e: {"history": [*e.history, e.history[0]]}, "history of .* appears twice"),
        (lambda e: {"episodes_per_env": 10**9}, "beyond any cycle"),
        (lambda _: first_history({"cycle_id": 2}), "not earlier"),
        (lambda _: first_history({"env_id": "sim/other"}), "does not have"),
        (lambda _: first_history({"success": {0: "1f"}}), "not 2 bytes long"),
        (lambda _: first_history({"success": {0: "zz00"}}), "not hex"),
        (lambda _: first_history({"success": {0: "1 00"}}), "not hex"),
        (lambda _: first_history({"success": {}}), "different miners"),
        (lambda _: first_history({"evaluated": {0: "0100"}}), "not evaluated"),
        (lambda _: first_history({"evaluated": {0: "ffff"}}), "not evaluated"),
        (lambda _: first_history({"evaluated": {7: "ff03"}, "success": {7: "0000"}}), "does not have"),
    ],
)
def test_an_export_that_contradicts_itself_is_refused_by_name(change: object, problem: str) -> None:
    export = build_export({0: table(0.5, episodes=10)}, earlier=[{0: table(0.5, episodes=10)}])
    assert callable(change)
    with pytest.raises(InvalidExport, match=problem):
        score_cycle(export.model_copy(update=change(export)))


@given(fields())
@settings(max_examples=20, deadline=None)
def test_an_export_read_back_from_its_file_gives_the_same_scores_to_the_last_digit(
    field: tuple[dict[int, Table], list[dict[int, Table]]],
) -> None:
    export = build_export(field[0], earlier=field[1])
    again = CycleExport.model_validate_json(export.model_dump_json())
    assert score_cycle(again) == score_cycle(export)


def test_packed_outcomes_put_back_as_history_weigh_as_much_as_the_cycle_did(make_export: MakeExport) -> None:
    now, before = {0: table(0.50), 1: table(0.56)}, {0: table(0.1), 1: table(0.9)}
    packed = pack_outcomes(make_export(before))
    row = make_export(now, earlier=[before]).history[0]
    bits = {uid: packed[uid, row.env_id] for uid in now}
    rebuilt = row.model_copy(
        update={
            "evaluated": {uid: evaluated.hex() for uid, (evaluated, _) in bits.items()},
            "success": {uid: success.hex() for uid, (_, success) in bits.items()},
        }
    )
    assert rebuilt == row
    (duel,) = score_cycle(make_export(now, earlier=[before])).walks["crown"].duels
    assert (duel.wins, duel.ties, duel.losses) == (6 + 80, 94 + 20, 0)

import math
from decimal import Context, Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinitro.scoring.betting import BETS, difference_interval, log_evidence, overtaking_threshold, wilson_interval

SMALL = st.integers(0, 300)
HUGE = st.integers(0, 10**8)
MARGINS = st.sampled_from(["0", "0.01", "0.05", "0.1", "-0.3"])


@pytest.mark.parametrize(
    ("counts", "margin", "expected"),
    [
        ((30, 400, 10), 0.01, 2.083034),
        ((0, 100, 0), 0.01, -0.310425),
        ((5, 0, 0), 0.01, 1.953560),
        ((60, 300, 40), 0.05, -1.120378),
        ((1000, 5000, 800), 0.01, 2.969788),
        ((0, 0, 0), 0.01, 0.0),
        ((3, 50, 20), 0.01, -1.843889),
    ],
)
def test_evidence_matches_the_published_vectors(counts: tuple[int, int, int], margin: float, expected: float) -> None:
    assert float(log_evidence(*counts, margin)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("places", "expected"), [(1, 3.4934), (10, 8.0986), (255, 14.5759)])
def test_thresholds_match_the_published_vectors(places: int, expected: float) -> None:
    assert float(overtaking_threshold(places, 0.05)) == pytest.approx(expected, abs=1e-4)


@given(SMALL, SMALL, SMALL, MARGINS)
@settings(deadline=None)
def test_evidence_agrees_with_exact_rational_arithmetic(wins: int, ties: int, losses: int, margin: str) -> None:
    d = Fraction(margin)
    stakes = [Fraction(str(bet)) for bet in BETS]
    wealth = sum((1 + bet * (1 - d)) ** wins * (1 - bet * d) ** ties * (1 - bet * (1 + d)) ** losses for bet in stakes)
    mean = wealth / len(stakes)
    exact = math.log(mean.numerator) - math.log(mean.denominator)
    assert float(log_evidence(wins, ties, losses, float(d))) == pytest.approx(exact, abs=1e-9, rel=1e-12)


@given(HUGE, HUGE, HUGE, st.sampled_from(["0.01", "0.05"]))
@settings(deadline=None)
def test_evidence_is_stable_for_counts_up_to_a_hundred_million(wins: int, ties: int, losses: int, margin: str) -> None:
    context = Context(prec=40)
    d = Decimal(margin)
    logs = [
        wins * context.ln(1 + bet * (1 - d)) + ties * context.ln(1 - bet * d) + losses * context.ln(1 - bet * (1 + d))
        for bet in map(Decimal, map(str, BETS))
    ]
    largest = max(logs)
    exact = largest + context.ln(sum(context.exp(log - largest) for log in logs) / len(logs))
    assert float(log_evidence(wins, ties, losses, float(d))) == pytest.approx(float(exact), rel=1e-12, abs=1e-6)


@given(SMALL, SMALL, SMALL, st.floats(-1, 0.99), st.floats(0, 0.5))
@settings(deadline=None)
def test_evidence_falls_as_the_margin_asked_for_grows(
    wins: int, ties: int, losses: int, margin: float, more: float
) -> None:
    harder = min(margin + more, 0.99)
    assert log_evidence(wins, ties, losses, harder) <= log_evidence(wins, ties, losses, margin) + 1e-9


def test_no_fair_bet_gains_on_average_at_the_margin_itself() -> None:
    for margin in (0.0, 0.01, 0.05, 0.3):
        win, loss = 0.2 + margin, 0.2
        outcomes = [(1, 0, 0, win), (0, 0, 1, loss), (0, 1, 0, 1 - win - loss)]
        mean = sum(p * math.exp(float(log_evidence(w, t, lose, margin))) for w, t, lose, p in outcomes)
        assert mean <= 1 + 1e-12


def test_wilson_intervals_match_known_values_and_their_edges() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 50)[0] == 0.0
    assert wilson_interval(50, 50)[1] == 1.0


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None)
def test_a_wilson_interval_holds_its_rate(counts: tuple[int, int]) -> None:
    low, high = wilson_interval(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1


@given(SMALL, SMALL, SMALL)
@settings(deadline=None)
def test_a_difference_interval_holds_the_difference_seen_and_turns_with_the_sides(
    wins: int, ties: int, losses: int
) -> None:
    low, high = difference_interval(wins, ties, losses, 0.05)
    seen = (wins - losses) / max(wins + ties + losses, 1)
    assert -1 <= low <= seen <= high <= 1
    assert difference_interval(losses, ties, wins, 0.05) == (-high, -low)


def test_without_episodes_any_difference_is_possible() -> None:
    assert difference_interval(0, 0, 0, 0.05) == (-1.0, 1.0)


@pytest.mark.parametrize("difference", [0.0, 0.1, -0.4])
def test_a_difference_interval_holds_the_truth_at_every_look(difference: float) -> None:
    random = np.random.default_rng(7)
    chances = [0.2 + max(difference, 0), 0.2 + max(-difference, 0)]
    draws = random.multinomial(50, [*chances, 1 - sum(chances)], size=(300, 20)).cumsum(axis=1)
    missed = 0
    for run in draws.tolist():
        intervals = [difference_interval(wins, ties, losses, 0.05) for wins, losses, ties in run]
        missed += any(not low <= difference <= high for low, high in intervals)
    assert missed <= 0.05 * len(draws)

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinitro.scoring.weights import scale_u16, settle_weights, share_weights

POINTS = st.dictionaries(st.integers(0, 255), st.integers(0, 4096), max_size=20)
HOTKEYS = {1: "a", 2: "b", 3: "c"}
WEIGHTS = {1: 0.5, 2: 0.3, 3: 0.2}


@given(POINTS, st.floats(1e-9, 1e9))
@settings(deadline=None)
def test_weights_are_positive_and_sum_to_one(points: dict[int, int], temperature: float) -> None:
    weights = share_weights(points, temperature, burn_uid=7)
    assert sum(weights.values()) == pytest.approx(1.0)
    assert all(weight > 0 for weight in weights.values())
    assert set(weights) <= {uid for uid, count in points.items() if count} | {7}


@given(POINTS)
@settings(deadline=None)
def test_u16_scales_to_the_largest_and_drops_zeros(points: dict[int, int]) -> None:
    weights = share_weights(points, 1.0, burn_uid=None)
    scaled = scale_u16(weights)
    assert scaled.uids == sorted(scaled.uids)
    assert all(0 < value <= 65535 for value in scaled.values)
    assert max(scaled.values, default=65535) == 65535


def test_a_low_temperature_favours_the_best() -> None:
    assert share_weights({1: 3, 2: 1}, 1.0, None) == {1: 0.75, 2: 0.25}
    assert share_weights({1: 3, 2: 1}, 0.5, None) == pytest.approx({1: 0.9, 2: 0.1})


def test_a_uid_that_changed_hands_loses_its_share_to_burn() -> None:
    settled = settle_weights(WEIGHTS, HOTKEYS, HOTKEYS | {2: "x"}, burn_uid=0)
    assert settled == pytest.approx({0: 0.3, 1: 0.5, 3: 0.2})


def test_without_a_burn_uid_the_rest_is_renormalised() -> None:
    settled = settle_weights(WEIGHTS, HOTKEYS, {1: "a", 3: "c"}, burn_uid=None)
    assert settled == pytest.approx({1: 5 / 7, 3: 2 / 7})
    assert settle_weights(WEIGHTS, HOTKEYS, {}, burn_uid=None) == {}


def test_when_nothing_changed_nothing_changes() -> None:
    assert settle_weights(WEIGHTS, HOTKEYS, HOTKEYS, burn_uid=0) == pytest.approx(WEIGHTS)

"""Steps: the compact form says all that the digest covers, and nothing hostile gets through it."""

import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinitro.environments.base import Step
from kinitro.environments.trace import DamagedSteps, Steps, Trace, sight_digest
from kinitro.policy.messages import Action, Observation
from kinitro.testing.records import made_up_steps


@contextmanager
def less_than(most_bytes: int) -> Iterator[None]:
    """Fails when the block needs more memory."""
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most_bytes


numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
actions = st.builds(
    Action,
    st.dictionaries(st.sampled_from(["a", "b"]), st.just(3), max_size=2).flatmap(
        lambda names: st.fixed_dictionaries(
            {name: st.lists(numbers, min_size=3, max_size=3).map(np.array) for name in names}
        )
    ),
    st.dictionaries(st.sampled_from(["x", "y"]), st.integers(-(2**62), 2**62), max_size=2),
)


def traced(steps: list[tuple[Action, float, bool]], state: bytes = b"s") -> Steps:
    trace = Trace()
    for action, reward, success in steps:
        trace.add(Observation({}), action, Step(Observation({}), reward, success=success))
    return trace.close(state)


@given(st.lists(st.tuples(actions, numbers, st.booleans()), max_size=6), st.binary())
def test_what_was_kept_comes_back_and_has_the_same_digest(happened, state) -> None:
    steps = traced(happened, state)
    again = Steps.decode(steps.encode())
    assert again.digest() == steps.digest()
    assert len(again) == len(happened)
    for index, (action, reward, success) in enumerate(happened):
        assert again.action(index).discrete == dict(action.discrete)
        for name, values in action.continuous.items():
            assert np.array_equal(again.action(index).continuous[name], values)
        assert (again.rewards[index], again.successes[index]) == (reward, success)


def test_the_digest_changes_with_every_part_that_it_covers() -> None:
    still = Action({"a": np.zeros(2)}, {"x": 1})
    several = [
        traced([(still, 1.0, False)]),
        traced([(Action({"a": np.array([0.0, 1e-300])}, {"x": 1}), 1.0, False)]),
        traced([(Action({"b": np.zeros(2)}, {"x": 1}), 1.0, False)]),
        traced([(Action({"a": np.zeros(2)}), 1.0, False)]),
        traced([(Action({"a": np.zeros(2)}, {"x": 2}), 1.0, False)]),
        traced([(still, 1.0 + 2**-52, False)]),
        traced([(still, 1.0, True)]),
        traced([(still, 1.0, False), (still, 1.0, False)]),
        traced([(still, 1.0, False)], state=b"other"),
    ]
    assert len({steps.digest() for steps in several}) == len(several)


def test_a_single_pixel_changes_what_was_seen() -> None:
    image = np.zeros((84, 84, 3), np.uint8)
    other = image.copy()
    other[3, 4, 1] = 1
    assert sight_digest(Observation({}, {"front": image})) != sight_digest(Observation({}, {"front": other}))


def test_an_episode_of_five_hundred_steps_stays_small() -> None:
    assert len(made_up_steps(500).encode()) < 48 * 1024


@given(st.binary(max_size=200))
def test_what_is_no_record_is_refused_with_a_reason(data) -> None:
    with pytest.raises(DamagedSteps, match="can't be read"):
        Steps.decode(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"steps": 10**9},
        {"steps": 4},
        {"rewards": b"123"},
        {"seen": b""},
        {"state_sha256": b"short"},
        {"continuous": {"a": [10**9, b""]}},
        {"continuous": {"a": [-1, b""]}},
        {"continuous": {"a": 3}},
        {"discrete": {"x": [1]}},
        {"discrete": {"x": ["one"] * 5}},
        {"discrete": {"x": [2**63] * 5}},
        {"discrete": {"x": [1.0] * 5}},
        {"discrete": {"x": [True] * 5}},
    ],
    ids=str,
)
def test_a_record_that_contradicts_itself_is_refused(changes) -> None:
    packed = msgpack.unpackb(zlib.decompress(made_up_steps(5).encode())) | changes
    with pytest.raises(DamagedSteps, match="can't be read"):
        Steps.decode(zlib.compress(msgpack.packb(packed)))


def test_a_small_file_that_would_fill_the_memory_is_refused() -> None:
    bomb = zlib.compress(bytes(200 * 2**20), 9)
    assert len(bomb) < 256 * 1024
    with pytest.raises(DamagedSteps, match="can't be read"):
        Steps.decode(bomb)


@pytest.mark.parametrize(
    "filling", [b"\x90", b"\x80", b"\xa2ab", b"\xc7\x00\x05", b"\xc4\x00", b"\xcb" + bytes(8)], ids=str
)
@pytest.mark.parametrize("lists", [1, 20])
def test_a_small_file_that_would_become_millions_of_objects_is_refused(filling, lists) -> None:
    count = 60_000
    rows = b"\xdd" + count.to_bytes(4, "big") + filling * count
    discrete = (
        b"\xa8discrete\xde" + lists.to_bytes(2, "big") + b"".join(b"\xa1%c" % (65 + i) + rows for i in range(lists))
    )
    packed = zlib.decompress(made_up_steps(5).encode())
    with pytest.raises(DamagedSteps, match="can't be read"), less_than(60 * 2**20):
        Steps.decode(zlib.compress(b"\x89" + packed[1:] + discrete, 9))


def test_what_a_reader_would_refuse_is_not_written() -> None:
    assert traced([(Action({"a": np.zeros(1000)}), 0.0, False)] * 500).encode()
    assert not traced([(Action({"a": np.zeros(1000)}), 0.0, False)] * 1500).encode()


def test_a_record_that_is_cut_off_is_refused() -> None:
    whole = made_up_steps(50).encode()
    with pytest.raises(DamagedSteps, match="can't be read"):
        Steps.decode(whole[: len(whole) // 2])

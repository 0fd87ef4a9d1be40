from kinitro.executor.faults import FaultCounter


def test_three_of_one_kind_in_a_row_are_too_many() -> None:
    counter = FaultCounter()
    assert [counter.record("gl") for _ in range(3)] == [False, False, True]


def test_another_kind_begins_a_new_row() -> None:
    counter = FaultCounter()
    assert [counter.record(kind) for kind in ("gl", "gl", "hub", "gl", "gl", "gl")] == [False] * 5 + [True]


def test_a_verdict_ends_the_row() -> None:
    counter = FaultCounter()
    assert [counter.record(kind) for kind in ("gl", "gl", None, "gl", "gl")] == [False] * 5


def test_pauses_grow_to_a_bound_until_a_verdict() -> None:
    counter = FaultCounter()
    pauses = []
    for _ in range(12):
        pauses.append(counter.pause_s)
        counter.resume()
    assert pauses == sorted(pauses)
    assert pauses[1] == 2 * pauses[0]
    assert pauses[-1] == pauses[-2] == 300.0
    counter.record(None)
    assert counter.pause_s == pauses[0]


def test_after_a_pause_the_next_fault_begins_a_new_row() -> None:
    counter = FaultCounter()
    for _ in range(3):
        counter.record("gl")
    counter.resume()
    assert [counter.record("gl") for _ in range(3)] == [False, False, True]

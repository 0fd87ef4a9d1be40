from kinitro.backends.docker.output import BYTES, LINES, pace_of


def stamped(count: int, over_s: float, text: str = "x") -> bytes:
    """So many lines, evenly over so many seconds (below a minute), as the engine gives them."""
    times = [index * over_s / max(1, count - 1) for index in range(count)]
    return "".join(f"2026-11-26T15:34:{time:012.9f}Z {text}\n" for time in times).encode()


def test_many_lines_or_many_bytes_within_a_second_are_a_flood() -> None:
    assert pace_of(stamped(LINES, 0.9)).is_flood
    assert pace_of(stamped(20, 0.9, "x" * (BYTES // 19))).is_flood


def test_the_same_over_more_time_and_less_within_a_second_are_none() -> None:
    assert not pace_of(stamped(LINES, 1.1)).is_flood
    assert not pace_of(stamped(LINES - 1, 0.1)).is_flood
    assert not pace_of(stamped(20, 1.1, "x" * (BYTES // 19))).is_flood
    assert not pace_of(stamped(1, 0.0)).is_flood


def test_the_pace_says_when_the_last_line_came() -> None:
    assert pace_of(stamped(3, 2.0)).last == "2026-11-26T15:34:02.000000000Z"


def test_no_output_and_what_has_no_time_have_no_pace() -> None:
    assert pace_of(b"") is None
    assert pace_of(b"unable to read the log\n") is None

"""Whom to believe about policies' files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinitro.scheduler.files import agreed_digest, agreed_files, doubtful, file_notice
from kinitro.storage import FileClaim

CLAIMS = st.lists(
    st.builds(FileClaim, st.integers(0, 3), st.sampled_from(["a", "b", "liar"]), st.sampled_from(["E", "V", "W"])),
    unique=True,
)


def claims(*said: tuple[int, str, str]) -> list[FileClaim]:
    return [FileClaim(*each) for each in said]


@pytest.mark.parametrize(
    ("said", "executors", "digest"),
    [
        ([(0, "a", "V")], {"a"}, "V"),
        ([(0, "a", "V")], set(), "V"),
        ([(0, "a", "V")], {"a", "b"}, None),
        ([(0, "a", "V")], {"b"}, None),
        ([(0, "a", "V"), (0, "b", "V")], {"a", "b", "c"}, "V"),
        ([(0, "a", "V"), (0, "b", "V"), (0, "liar", "E")], {"a", "b", "liar"}, None),
        ([(0, "a", "V"), (0, "a", "E")], {"a"}, None),
        ([], {"a"}, None),
    ],
    ids=[
        *("the only executor's word", "a day later", "one word where another could be had", "of one that is gone"),
        *("two that agree", "one against two", "one that contradicts itself", "nobody's word"),
    ],
)
def test_files_are_agreed_when_nobody_differs_and_two_say_so_or_there_is_only_one(said, executors, digest) -> None:
    assert agreed_digest(claims(*said), executors) == digest


@given(CLAIMS, st.integers(0, 3), st.sampled_from(["E", "V", "W"]))
def test_one_executor_alone_never_changes_what_files_are_where_others_could_be_asked(said, uid, lie) -> None:
    executors = {"a", "b", "liar"}
    honest = [claim for claim in said if claim.executor_id != "liar"]
    before = {one: {c.tree_digest for c in honest if c.uid == one} for one in range(4)}
    for one, digest in agreed_files({*honest, FileClaim(uid, "liar", lie)}, executors).items():
        assert before[one] == {digest}


def test_claims_that_differ_are_looked_into_all_of_them() -> None:
    said = claims((0, "a", "V"), (0, "liar", "E"), (1, "a", "W"))
    assert doubtful(said) == said[:2]


def test_a_copy_by_one_executors_word_is_looked_into_on_both_sides_and_one_by_twos_is_not() -> None:
    said = claims((0, "a", "E"), (1, "liar", "E"), (2, "a", "E"), (2, "b", "E"), (3, "a", "W"))
    assert doubtful(said) == said[:2]


def test_however_much_an_executor_says_of_a_miner_two_of_its_words_are_looked_into() -> None:
    said = [FileClaim(0, "liar", f"invented {number}") for number in range(50)]
    assert len(doubtful([*said, FileClaim(0, "a", "V")])) == 3


def test_operators_are_told_who_said_what_and_nothing_when_all_agree() -> None:
    said = claims((0, "a", "V"), (0, "liar", "E"), (1, "a", "W"), (2, "b", "W"))
    text = file_notice(9, said, {})
    assert text is not None
    assert "In cycle 9" in text
    assert "uid 0's are V by a, E by liar" in text
    assert "uid 1 is said to share files with another by a alone" in text
    assert "kinitro executors list" in text
    assert file_notice(9, said[2:], {1: "W", 2: "W"}) is None

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinitro.chain import format_commitment, parse_commitment
from kinitro.chain.commitment import commitment_text
from kinitro.errors import ConfigurationError, InvalidCommitment
from kinitro.types import PolicyRef

REVISION = "0123456789abcdef0123456789abcdef01234567"
REF = PolicyRef("User_1/my-policy.v2", REVISION)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"m":"User_1/my-policy.v2","r":"{REVISION}"}}',
        f'{{ "r": "{REVISION}",\n "m": "User_1/my-policy.v2" }}',
        f"User_1/my-policy.v2:{REVISION}",
    ],
)
def test_both_forms_are_read(text: str) -> None:
    assert parse_commitment(text) == REF


def test_what_is_written_is_read_back() -> None:
    text = format_commitment(REF)
    assert text == f'{{"m":"User_1/my-policy.v2","r":"{REVISION}"}}'
    assert parse_commitment(text) == REF


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("x" * 129, "longer than 128"),
        (f"user/repo:{REVISION.upper()}", "40 lower-case hex digits"),
        (f"user/repo:{REVISION[:39]}", "40 lower-case hex digits"),
        (f"user/repo:{REVISION}0", "40 lower-case hex digits"),
        (f"user/repo:{REVISION}\n", "40 lower-case hex digits"),
        ("user/repo:main", "40 lower-case hex digits"),
        (f"user/repo:{REVISION}:{REVISION}", "40 lower-case hex digits"),
        ("user/repo", "neither JSON nor"),
        (f"repo:{REVISION}", "user/name"),
        (f"a/b/c:{REVISION}", "user/name"),
        (f"../../etc:{REVISION}", "user/name"),
        (f"user/..:{REVISION}", "user/name"),
        (f"user/a..b:{REVISION}", "user/name"),
        (f"user/.hidden:{REVISION}", "user/name"),
        (f"user/repo.git:{REVISION}", "user/name"),
        (f"-user/repo:{REVISION}", "user/name"),
        (f"/user/repo:{REVISION}", "user/name"),
        (f"user\\x/repo:{REVISION}", "user/name"),
        (f"us er/repo:{REVISION}", "user/name"),
        (f"user/repo?x=1:{REVISION}", "user/name"),
        (f" user/repo:{REVISION}", "user/name"),
        (f"user/rep\u043e:{REVISION}", "not ASCII"),
        (f"user/repo\u202e:{REVISION}", "not ASCII"),
        (f"user/\ud800:{REVISION}", "not ASCII"),
        (f"user/re\0po:{REVISION}", "user/name"),
        (f'{{"m":"user/rep\\u043e","r":"{REVISION}"}}', "user/name"),
        (f'{{"m":"user/repo","r":"{REVISION}"', "not"),
        (f'{{"m":"user/repo","r":"{REVISION}"}} x', "not"),
        (f'{{"m":"user/repo","m":"u/evil","r":"{REVISION}"}}', "twice"),
        (f'{{"m":"user/repo","r":"{REVISION}","x":1}}', "no other"),
        (f'{{"M":"user/repo","r":"{REVISION}"}}', "no other"),
        (f'{{"m":"user/repo","R":"{REVISION}"}}', "no other"),
        ('{"m":"user/repo"}', "no other"),
        ('{"m":"user/repo","r":7}', "strings"),
        ('{"m":["user/repo"],"r":null}', "strings"),
        ("[]", "neither JSON nor"),
        ('{"m":' + "[" * 120, "not"),
        ("null", "neither JSON nor"),
    ],
)
def test_anything_else_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidCommitment, match=reason) as caught:
        parse_commitment(text)
    assert str(caught.value).isprintable()
    assert caught.value.advice


@given(st.text(max_size=140))
@settings(deadline=None)
def test_no_text_at_all_makes_the_reader_fail_in_another_way(text: str) -> None:
    with contextlib.suppress(InvalidCommitment):
        parse_commitment(text)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
@settings(deadline=None)
def test_no_json_at_all_makes_the_reader_fail_in_another_way(value: object) -> None:
    with pytest.raises(InvalidCommitment):
        parse_commitment(json.dumps(value))


def test_a_text_that_would_not_fit_is_refused_with_the_length_that_would() -> None:
    longest = PolicyRef("user/" + "r" * 68, REVISION)
    assert len(format_commitment(longest)) == 128
    with pytest.raises(ConfigurationError, match="at most 73 characters"):
        format_commitment(PolicyRef("user/" + "r" * 69, REVISION))


@pytest.mark.parametrize("revision", ["main", REVISION.upper(), REVISION[:7], ""])
def test_a_revision_that_can_move_is_not_written(revision: str) -> None:
    with pytest.raises(ConfigurationError, match="40 hex digits"):
        format_commitment(PolicyRef("user/repo", revision))


def test_a_repo_that_could_not_be_read_back_is_not_written() -> None:
    with pytest.raises(ConfigurationError, match="--repo"):
        format_commitment(PolicyRef("../repo", REVISION))


@pytest.mark.parametrize(
    ("info", "text"),
    [
        ({"fields": [{"Raw5": "0x616c706861"}]}, "alpha"),
        ({"fields": [{"Raw2": "0x616c"}, {"Raw3": "0x706861"}]}, "alpha"),
        ({"fields": [{"Raw0": "0x"}]}, ""),
        ({"fields": []}, ""),
        ({"fields": [{"Raw2": "0xff00"}]}, "0xff00"),
    ],
)
def test_stored_fields_make_one_text(info: object, text: str) -> None:
    assert commitment_text(info) == text


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.sampled_from(["fields", "Raw5", "0xzz"]),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["fields", "Raw5", "Sha256", "x"]), inner),
    )
)
def test_whatever_is_stored_there_is_some_text_and_no_error(info: object) -> None:
    assert isinstance(commitment_text(info), str)
    assert isinstance(commitment_text({"fields": [info]}), str)


@pytest.mark.parametrize("field", [{"TimelockEncrypted": {}}, {"Sha256": "0x00"}, "ResetBondsFlag", {"Raw2": "0xzz"}])
def test_what_is_not_plain_text_names_no_policy(field: object) -> None:
    with pytest.raises(InvalidCommitment):
        parse_commitment(commitment_text({"fields": [field]}))

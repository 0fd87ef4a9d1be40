import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinitro.deployments.requirements import parse_requirements, read_requirements
from kinitro.errors import PolicyError

A, B = "a" * 64, "b" * 64


def test_exact_versions_with_hashes_are_taken_in_the_form_that_lockers_write_them() -> None:
    text = f"""
# made by a tool
torch-lite==1.2.3+cpu \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
    # via something
Zope.Interface==7.0rc1 --hash=sha256:{B}  # why
"""
    found = parse_requirements(text)
    assert [(each.key, each.version, each.hashes) for each in found] == [
        ("torch-lite", "1.2.3+cpu", (A, B)),
        ("zope-interface", "7.0rc1", (B,)),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("numpy", "does not say exactly which version"),
        ("numpy>=1", "does not say exactly which version"),
        ("numpy==2.0", "has no hash"),
        (f"numpy==2.* --hash=sha256:{A}", "is not a name and an exact version"),
        (f"numpy===2.0 --hash=sha256:{A}", "is not a name and an exact version"),
        (f"numpy==2.0,<3 --hash=sha256:{A}", "is not a name and an exact version"),
        (f"numpy==2.0 --hash=md5:{A[:32]}", "besides SHA-256"),
        (f"numpy==2.0 --hash=sha256:{A[:-1]}", "besides SHA-256"),
        (f"numpy==2.0 --hash=sha256:{A} --config-settings=x", "besides SHA-256"),
        (f"uvicorn[standard]==1 --hash=sha256:{A}", "asks for extras"),
        (f"numpy==2.0 ; python_version > '3' --hash=sha256:{A}", "has a condition"),
        ("--index-url http://evil", "is an option"),
        ("-r more.txt", "is an option"),
        ("-e .", "is an option"),
        ("git+https://evil/x.git", "names a place"),
        ("x @ https://evil/x.whl", "names a place"),
        ("https://evil/x.whl", "names a place"),
        ("./x.whl", "names a place"),
    ],
)
def test_anything_else_is_refused_with_its_line(line: str, reason: str) -> None:
    with pytest.raises(PolicyError, match=reason) as caught:
        parse_requirements(f"# first\ngood==1 --hash=sha256:{A}\n{line}\n")
    assert "line 3" in caught.value.message
    assert caught.value.code == "requirements_refused"
    assert "--lock" in str(caught.value)


def test_an_option_cannot_hide_behind_a_backslash_or_the_end_of_the_file() -> None:
    for text in (f"a==1 --hash=sha256:{A} \\\n--index-url http://evil", f"a==1 --hash=sha256:{A} \\\n-r x \\"):
        with pytest.raises(PolicyError, match="line 1"):
            parse_requirements(text)


def test_a_package_named_twice_is_refused_however_it_is_written() -> None:
    with pytest.raises(PolicyError, match=r"line 2 names my\.Pack a second time"):
        parse_requirements(f"My_pack==1 --hash=sha256:{A}\nmy.Pack==2 --hash=sha256:{A}\n")


def test_a_folder_without_the_file_asks_for_nothing(tmp_path: Path) -> None:
    assert read_requirements(tmp_path) == ()


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b"#" * 2_000_000])
def test_a_file_that_is_no_such_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "requirements.txt").write_bytes(content)
    with pytest.raises(PolicyError, match=r"requirements\.txt"):
        read_requirements(tmp_path)


@given(st.text(alphabet="ab=-.#\\\n @:+;[]0123h ", max_size=60))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    with contextlib.suppress(PolicyError):
        assert all(each.hashes for each in parse_requirements(text))

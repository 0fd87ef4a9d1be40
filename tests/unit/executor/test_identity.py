"""The name that an executor has when none was chosen."""

from pathlib import Path

import pytest

from kinitro.errors import ConfigurationError
from kinitro.executor.identity import own_name


def test_the_name_stays_over_restarts_and_those_that_run_at_once_have_different_ones(tmp_path: Path) -> None:
    with own_name(tmp_path / "executors") as first, own_name(tmp_path / "executors") as second:
        assert first != second
    with own_name(tmp_path / "executors") as again:
        assert again == first
    with own_name(tmp_path / "others") as elsewhere:
        assert elsewhere not in (first, second)


def test_a_place_where_no_name_can_be_kept_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "executors").touch()
    with (
        pytest.raises(ConfigurationError, match=r"can't be kept in .*/executors: File exists") as caught,
        own_name(tmp_path / "executors"),
    ):
        pass
    assert caught.value.advice is not None
    assert "--executor-id" in caught.value.advice

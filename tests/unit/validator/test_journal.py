"""What a validator remembers of its writes."""

from pathlib import Path

import pytest

from kinitro.errors import ConfigurationError
from kinitro.schemas import WeightsU16
from kinitro.validator.journal import Attempt, Fate, open_journal


def attempt(cycle_id: int, genesis: str = "0xaa") -> Attempt:
    return Attempt(
        fate=Fate.SET, genesis=genesis, cycle_id=cycle_id, weights=WeightsU16(uids=[1], values=[65535]), block=10
    )


def test_the_latest_attempt_on_a_chain_is_found_among_those_on_others(tmp_path: Path):
    with open_journal(tmp_path, 1, "hotkey") as journal:
        assert journal.last("0xaa") is None
        for each in (attempt(1), attempt(2), attempt(3, "0xbb")):
            journal.append(each)
        assert journal.last("0xaa") == attempt(2).model_copy(update={"at": journal.last("0xaa").at})


def test_a_line_that_a_crash_cut_short_hides_neither_its_neighbours(tmp_path: Path):
    file = tmp_path / "1-hotkey.jsonl"
    with open_journal(tmp_path, 1, "hotkey") as journal:
        journal.append(attempt(1))
        file.write_bytes(file.read_bytes() + attempt(2).model_dump_json().encode()[:50])
        assert journal.last("0xaa").cycle_id == 1
        journal.append(attempt(3))
        assert journal.last("0xaa").cycle_id == 3
    assert len(file.read_bytes().splitlines()) == 3


def test_only_one_process_at_a_time_has_a_hotkeys_journal(tmp_path: Path):
    taken = pytest.raises(ConfigurationError, match="Another `kinitro validate` sets the weights of hotkey")
    with (
        open_journal(tmp_path, 1, "hotkey"),
        open_journal(tmp_path, 2, "hotkey"),
        taken,
        open_journal(tmp_path, 1, "hotkey"),
    ):
        pass
    with open_journal(tmp_path, 1, "hotkey"):
        pass


def test_a_home_that_cannot_be_written_is_said_with_the_way_out(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(ConfigurationError, match="KINITRO_HOME"), open_journal(blocked / "validator", 1, "hotkey"):
        pass

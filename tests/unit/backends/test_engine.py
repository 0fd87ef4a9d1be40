"""What is said when the Docker engine can't be talked to."""

import pytest

from kinitro.backends.docker.engine import no_engine
from kinitro.backends.images import _Lines, _translated

DENIED = "Error while fetching server API version: ('Connection aborted.', PermissionError(13, 'Permission denied'))"
AWAY = "Error while fetching server API version: ('Connection aborted.', FileNotFoundError(2, 'No such file'))"


def test_an_engine_that_this_user_may_not_use_is_not_said_to_be_away() -> None:
    denied = no_engine(Exception(DENIED))
    assert denied.message == "This user may not use the Docker engine: permission denied."
    assert "usermod -aG docker" in str(denied.advice)
    assert "systemctl" not in str(denied.advice)


def test_an_engine_that_is_away_is_told_as_the_guide_has_it() -> None:
    away = no_engine(Exception(AWAY))
    assert away.message.startswith("No Docker engine answers: ")
    assert "systemctl start docker" in str(away.advice)


@pytest.mark.parametrize("cause", [DENIED, AWAY])
def test_building_an_image_says_the_same(cause: str) -> None:
    wrapped = Exception(f"Failed to connect to Docker daemon: {cause}")
    said = _translated("miner", wrapped, _Lines(print))
    assert said.message.partition(":")[0] == no_engine(Exception(cause)).message.partition(":")[0]

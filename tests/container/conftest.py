"""Everything here starts real containers; without an engine or the images it is skipped, and says so."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kinitro.backends.docker import DockerBackend, DockerSettings

RUNNER = "kinitro/miner-runner:v1"
METAWORLD = "kinitro/metaworld:v1"


def docker(*arguments: str) -> str:
    """The docker command's output."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def missing() -> str | None:
    try:
        for image in (RUNNER, METAWORLD):
            docker("image", "inspect", image)
    except (OSError, subprocess.SubprocessError) as error:
        return (
            f"no Docker engine with our images ({error}); start one and run `kinitro env build metaworld` and `miner`"
        )
    return None


def left_over(run: str = "") -> list[str]:
    """Everything of ours that the engine still has."""
    found = docker("ps", "-aq", "--filter", f"label=kinitro.run{run}").split()
    found += docker("network", "ls", "-q", "--filter", f"label=kinitro.run{run}").split()
    return found + docker("volume", "ls", "-q", "--filter", f"label=kinitro.run{run}").split()


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    if (reason := missing()) is not None:
        pytest.skip(reason)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def settings(state: Path) -> DockerSettings:
    return DockerSettings(state=state, image=RUNNER, callers=4)


@pytest.fixture
async def backend(settings: DockerSettings) -> AsyncIterator[DockerBackend]:
    async with DockerBackend(settings) as backend:
        yield backend


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert left_over() == []

"""Docker mode's prerequisites, present and missing for real."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from kinitro.doctor.containers import docker as look
from kinitro.doctor.findings import Finding, Verdict
from kinitro.environments.registry import images_of
from kinitro.settings import ExecutorSettings

from .conftest import METAWORLD, RUNNER, docker

_VERSION = "org.opencontainers.image.version"


async def findings(**settings: object) -> dict[str, Finding]:
    """By subject."""
    chosen = ExecutorSettings.load(**settings)
    return {one.subject: one for one in await look(chosen, images_of(["metaworld"], chosen.eval_images))}


@pytest.fixture
def old_image() -> Iterator[str]:
    """The environment's image as an earlier version would have built it."""
    tag = f"kinitro-test/old:{uuid4().hex[:8]}"
    container = docker("create", METAWORLD).strip()
    docker("commit", "--change", f"LABEL {_VERSION}=0.0.1", container, tag)
    docker("rm", container)
    yield tag
    docker("rmi", tag)


async def test_with_everything_there_the_isolation_is_proved_and_nothing_is_left() -> None:
    found = await findings()
    assert found["Docker"].verdict is Verdict.OK
    assert found["metaworld image"].verdict in (Verdict.OK, Verdict.WARNING), "a warning when this source has moved on"
    assert found["Isolation"].verdict is Verdict.OK
    assert "reached neither this host nor the outside" in found["Isolation"].text


async def test_an_image_that_is_missing_is_named_with_the_command_and_not_pulled() -> None:
    found = await findings(eval_images={"metaworld": "kinitro-test/nothing:v9"})
    assert found["metaworld image"].verdict is Verdict.FAILED
    assert "kinitro-test/nothing:v9 is not on this machine" in found["metaworld image"].text
    assert found["metaworld image"].advice == "Build it: kinitro env build metaworld --tag kinitro-test/nothing:v9"
    assert "nothing" not in docker("images", "--format", "{{.Repository}}")


async def test_without_the_runner_image_there_is_nothing_to_probe_with() -> None:
    found = await findings(miner_deployment_image="kinitro-test/nothing:v9")
    assert "kinitro env build miner" in (found["miner image"].advice or "")
    assert found["Isolation"].verdict is Verdict.SKIPPED


async def test_an_image_of_another_version_is_to_be_built_anew(old_image: str) -> None:
    found = await findings(eval_images={"metaworld": old_image})
    assert found["metaworld image"].verdict is Verdict.FAILED
    assert "was built by Kinitro 0.0.1" in found["metaworld image"].text


async def test_an_image_that_is_not_ours_is_doubted() -> None:
    found = await findings(eval_images={"metaworld": "python:3.11-slim-bookworm"}, miner_deployment_image=RUNNER)
    assert found["metaworld image"].verdict is Verdict.WARNING
    assert "does not say which Kinitro" in found["metaworld image"].text

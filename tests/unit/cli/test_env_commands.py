"""`kinitro env`, but for what needs a simulator or an engine."""

import json

import pytest
from typer.testing import CliRunner

from kinitro.cli.app import app
from kinitro.environments import catalogue
from kinitro.errors import ConfigurationError


def test_the_catalogue_is_json_when_asked() -> None:
    listed = json.loads(CliRunner().invoke(app, ["env", "list", "--json"], catch_exceptions=False).stdout)
    assert [spec["env_id"] for spec in listed] == [spec.env_id for spec in catalogue()]
    assert listed[0]["continuous"] == {"ee_twist": 6, "gripper": 1}


@pytest.mark.parametrize("columns", ["80", "120"])
def test_an_environment_takes_one_line_and_its_familys_channels_are_said_once(monkeypatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = CliRunner().invoke(app, ["env", "list"], catch_exceptions=False).stdout.splitlines()
    assert len(lines) < len(catalogue()) + 20
    assert all(sum(f" {spec.env_id} " in line for line in lines) == 1 for spec in catalogue())
    assert sum("ee_twist (6), gripper (1)" in line for line in lines) == 1
    assert sum("nav (1 of 9)" in line for line in lines) == 1


@pytest.mark.parametrize("place", ["none", "/nosuch"])
def test_a_unity_build_that_is_not_there_is_one_error(place: str) -> None:
    done = CliRunner().invoke(app, ["env", "test", "procthor/v0", "--unity", place])
    assert isinstance(done.exception, ConfigurationError)
    assert done.exception.message.startswith(f"There is no Unity build of AI2-THOR at {place} ")
    assert "--unity" in str(done.exception.advice)
    assert done.stdout == ""

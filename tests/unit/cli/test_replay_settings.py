"""Where `kinitro replay` runs what, and reads it from: a flag that was not given overrides nothing."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kinitro.cli import replay
from kinitro.cli.app import app
from kinitro.errors import ConfigurationError
from kinitro.settings import ExecutorSettings
from kinitro.types import EvalMode


@pytest.fixture(autouse=True)
def nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KINITRO_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def settings_of(*flags: str, **variables: str) -> ExecutorSettings:
    found = []

    async def note(wanted: object, export: object, settings: ExecutorSettings, *_: object) -> None:
        found.append(settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "_run_again", note)
        for name, value in variables.items():
            patch.setenv(name, value)
        done = CliRunner().invoke(app, ["replay", "--all", *flags])
    if isinstance(done.exception, Exception):
        raise done.exception
    return found[0]


def test_without_flags_the_executors_variables_count() -> None:
    assert (settings_of().eval_mode, settings_of().api_url) == (EvalMode.DOCKER, "http://localhost:8000")
    found = settings_of(KINITRO_EXECUTOR_EVAL_MODE="process", KINITRO_EXECUTOR_API_URL="http://executors")
    assert (found.eval_mode, found.api_url) == (EvalMode.PROCESS, "http://executors")


def test_flags_come_first_and_what_names_an_api_to_read_from_before_the_executors() -> None:
    variables = {"KINITRO_EXECUTOR_EVAL_MODE": "process", "KINITRO_EXECUTOR_API_URL": "http://executors"}
    assert settings_of("--eval-mode", "docker", **variables).eval_mode is EvalMode.DOCKER
    assert settings_of(KINITRO_API_URL="http://readers", **variables).api_url == "http://readers"
    both = settings_of("--api-url", "http://flag", KINITRO_API_URL="http://readers", **variables)
    assert both.api_url == "http://flag"


def test_where_an_executor_would_rent_its_machines_a_replay_asks_for_another_mode() -> None:
    with pytest.raises(ConfigurationError, match=r"not in basilica mode\. Add --eval-mode docker"):
        settings_of(KINITRO_EXECUTOR_EVAL_MODE="basilica")
    assert settings_of("--without-policy", KINITRO_EXECUTOR_EVAL_MODE="basilica").api_url == "http://localhost:8000"

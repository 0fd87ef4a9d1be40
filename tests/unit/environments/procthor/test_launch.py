"""Which player may be started, and what is said where none can be."""

import sys
from pathlib import Path

import pytest

from kinitro.environments import registry
from kinitro.environments.base import EnvironmentOptions
from kinitro.environments.procthor.launch import (
    UNITY_VARIABLE,
    check_machine,
    display_command,
    find_unity,
    unity_launch,
)
from kinitro.errors import ConfigurationError


def build_at(folder: Path, name: str = "thor-Linux64-abc", content: bytes = b"\x7fELF...") -> Path:
    file = folder / name
    file.write_bytes(content)
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(("system", "machine"), [("Linux", "aarch64"), ("Darwin", "arm64"), ("Darwin", "x86_64")])
def test_other_machines_than_x86_64_linux_are_refused_clearly(system, machine):
    with pytest.raises(ConfigurationError, match=rf"needs Linux on x86-64; this is {system} on {machine}"):
        check_machine(system, machine)


def test_the_machine_is_looked_at_before_anything_else(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setitem(sys.modules, "ai2thor", None)
    with pytest.raises(ConfigurationError, match="needs Linux on x86-64; this is Linux on aarch64"):
        registry.build(registry.find("procthor/v0"), EnvironmentOptions())


def test_x86_64_linux_is_fine():
    check_machine("Linux", "x86_64")


def test_without_a_build_the_environment_says_what_to_set(monkeypatch):
    monkeypatch.delenv(UNITY_VARIABLE, raising=False)
    with pytest.raises(ConfigurationError, match=rf"not set up here.*{UNITY_VARIABLE}"):
        registry.build(registry.find("procthor/v0"), EnvironmentOptions())


def test_the_build_is_found_by_its_file_or_its_folder(tmp_path, monkeypatch):
    file = build_at(tmp_path)
    (tmp_path / "thor-Linux64-abc_Data").mkdir()
    assert find_unity(file) == find_unity(tmp_path) == file
    monkeypatch.setenv(UNITY_VARIABLE, str(tmp_path))
    assert unity_launch().command == str(file)
    assert not unity_launch().stand_in


def test_a_script_is_no_build(tmp_path):
    build_at(tmp_path, content=b"#!/bin/sh\nexec python -m kinitro.testing.procthor.player\n")
    with pytest.raises(ConfigurationError, match="no Linux program"):
        find_unity(tmp_path)


def test_two_builds_in_one_folder_are_ambiguous(tmp_path):
    build_at(tmp_path)
    build_at(tmp_path, "thor-Linux64-def")
    with pytest.raises(ConfigurationError, match=r"no Unity build of AI2-THOR at .*one thor-\*"):
        find_unity(tmp_path)


def test_a_display_that_is_there_is_used_and_a_missing_one_started(monkeypatch, tmp_path):
    assert display_command({"DISPLAY": ":3"}) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="apt-get install xvfb"):
        display_command({})
    build_at(tmp_path, "Xvfb")
    assert display_command({})[0] == str(tmp_path / "Xvfb")


@pytest.mark.parametrize("name", ["none", "nosuch/build"])
def test_a_place_without_a_build_is_named(tmp_path, name):
    with pytest.raises(ConfigurationError, match=f"no Unity build of AI2-THOR at {tmp_path / name} "):
        find_unity(tmp_path / name)

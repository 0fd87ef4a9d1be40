"""What goes into an image's build, before any engine is asked."""

import runpy
from pathlib import Path

import pytest

from kinitro.backends import images
from kinitro.backends.images import BuildOptions, build
from kinitro.errors import ConfigurationError

INSTALL = Path(images.__file__).parent / "procthor" / "install_unity.py"


def unity_build(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"\x7fELF")
    return folder


@pytest.mark.parametrize("names", [(), ("thor-a", "thor-b"), ("unity-player",)])
def test_a_folder_without_one_unity_build_is_refused_before_anything_is_built(tmp_path, names):
    folder = unity_build(tmp_path / "build", *names)
    with pytest.raises(ConfigurationError, match=r"no folder with a Unity build.*none"):
        build("procthor", BuildOptions("kinitro/test:none", "python:3.11-slim-bookworm", unity=str(folder)), print)


def test_an_image_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ConfigurationError, match="metaworld, procthor, miner"):
        build("mujoco", BuildOptions("kinitro/test:none", "python:3.11-slim-bookworm"), print)


def test_a_unity_build_of_this_machine_is_installed_ready_to_run(tmp_path):
    install = runpy.run_path(str(INSTALL))["install"]
    source = unity_build(tmp_path / "build", "thor-Linux64-abc")
    (source / "thor-Linux64-abc").chmod(0o644)
    install("folder", source, tmp_path / "unity")
    assert (tmp_path / "unity" / "thor-Linux64-abc").stat().st_mode & 0o777 == 0o755


def test_no_unity_build_leaves_an_empty_place(tmp_path):
    runpy.run_path(str(INSTALL))["install"]("none", tmp_path, tmp_path / "unity")
    assert list((tmp_path / "unity").iterdir()) == []


def test_another_word_than_the_three_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="none of download, folder, none"):
        runpy.run_path(str(INSTALL))["install"]("yes", tmp_path, tmp_path / "unity")

import ast
import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from kinitro.deployments.requirements import PROVIDED, read_requirements
from kinitro.errors import ConfigurationError
from kinitro.miner.folder import create_folder
from kinitro.types import FolderTemplate


@pytest.mark.parametrize("template", list(FolderTemplate))
def test_a_new_folder_is_complete_and_imports_nothing_of_ours(tmp_path: Path, template: FolderTemplate) -> None:
    names = create_folder(tmp_path / "mine", template)
    expected = {"Dockerfile", "README.md", "policy.py", "requirements.txt", "server.py", "test_policy.py"}
    assert expected <= set(names)
    imported = set()
    for path in (tmp_path / "mine").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"policy", "server"}
    assert others <= set(PROVIDED) | {"torch", "lerobot"}


def test_a_new_folders_requirements_are_accepted_and_its_card_is_for_robotics(tmp_path: Path) -> None:
    create_folder(tmp_path / "mine", FolderTemplate.MINIMAL)
    assert read_requirements(tmp_path / "mine") == ()
    card = (tmp_path / "mine" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: kinitro\npipeline_tag: robotics\ntags:\n")
    assert "# mine\n" in card
    assert "$" not in card


def test_the_dockerfile_installs_what_is_provided(tmp_path: Path) -> None:
    create_folder(tmp_path / "mine", FolderTemplate.MINIMAL)
    installed = {
        line.strip().partition("==")[0]
        for line in (tmp_path / "mine" / "Dockerfile").read_text().splitlines()
        if "==" in line
    }
    assert installed == set(PROVIDED)


def test_a_place_that_is_taken_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "policy.py").write_text("mine")
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        create_folder(tmp_path, FolderTemplate.MINIMAL)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.py"]
    with pytest.raises(ConfigurationError):
        create_folder(tmp_path / "policy.py", FolderTemplate.MINIMAL)


@pytest.mark.parametrize("there_already", [True, False])
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path: Path, monkeypatch, there_already: bool) -> None:
    copied = []

    def copyfile(source: Path, destination: Path) -> None:
        if copied:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copied.append(destination.write_bytes(source.read_bytes()))

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    if there_already:
        (tmp_path / "mine").mkdir()
    with pytest.raises(OSError, match="No space"):
        create_folder(tmp_path / "mine", FolderTemplate.MINIMAL)
    assert list(tmp_path.rglob("*")) == ([tmp_path / "mine"] if there_already else [])
    monkeypatch.undo()
    assert "server.py" in create_folder(tmp_path / "mine", FolderTemplate.MINIMAL)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    assert "policy.py" in create_folder(tmp_path, FolderTemplate.MINIMAL)

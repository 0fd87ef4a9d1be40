"""Policy folders: the one place that knows what one holds, for `miner init` and for the demo."""

import shutil
import tempfile
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from string import Template

from kinitro.errors import ConfigurationError
from kinitro.types import FolderTemplate

_ABOUT = {
    FolderTemplate.MINIMAL: "A policy for Kinitro, made from its template.",
    FolderTemplate.LEROBOT: "A LeRobot policy, served for Kinitro. Put "
    "`config.json`, `model.safetensors`\nand the processors' files of its `pretrained_model` folder beside this file.",
}


def create_folder(folder: Path, template: FolderTemplate) -> list[str]:
    """Writes a complete policy folder and returns its files' names. It runs as it is, without Kinitro.

    Raises `ConfigurationError` when there is something at that path already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(
            f"{folder} exists and is not an empty folder.", advice="Give another path, or remove it first."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Moved in when it is whole: a disk that fills up leaves nothing behind.
    beside = folder if folder.exists() else folder.parent
    with (
        as_file(files("kinitro") / "miner" / "template" / template.value) as modules,
        tempfile.TemporaryDirectory(prefix=".kinitro-init-", dir=beside) as scratch,
    ):
        whole = Path(scratch) / "policy"
        write_policy_folder(whole, modules, title=folder.resolve().name, about=_ABOUT[template])
        names = sorted(path.name for path in whole.iterdir())
        if beside is folder:
            for name in names:
                (whole / name).rename(folder / name)
        else:
            whole.rename(folder)
    return names


def write_policy_folder(folder: Path, modules: Path, *, title: str, about: str) -> None:
    """Writes a policy as its miner uploads it: the files of `modules` and what every policy folder has."""
    folder.mkdir(parents=True, exist_ok=True)
    package = files("kinitro")
    with as_file(package / "miner" / "template" / "common") as common:
        for file in _plain_files(common):
            shutil.copyfile(file, folder / file.name)
    with as_file(package / "policy" / "server.py") as server:
        shutil.copyfile(server, folder / "server.py")
    for file in _plain_files(modules):
        shutil.copyfile(file, folder / file.name)
    readme = folder / "README.md"
    readme.write_text(Template(readme.read_text()).substitute(title=title, about=about))


def _plain_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix != ".pyc")

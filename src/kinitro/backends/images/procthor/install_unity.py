"""Puts AI2-THOR's Unity build into the image: `install_unity.py download|folder|none FROM TO`."""

import platform
import shutil
import sys
from pathlib import Path


def install(how: str, source: Path, target: Path) -> None:
    """Leaves the build's files in `target`, its executable named thor-*. Ends with a message when it can't."""
    if how == "none":
        target.mkdir(parents=True)
        return
    if platform.machine() != "x86_64":
        raise SystemExit(f"AI2-THOR has no Linux build for {platform.machine()}: build this image on x86-64.")
    if how == "download":
        _download(target)
    elif how == "folder":
        shutil.copytree(source, target)
    else:
        raise SystemExit(f"UNITY={how} is none of download, folder, none.")
    found = [path for path in target.glob("thor-*") if path.is_file()]
    if len(found) != 1:
        raise SystemExit(f"The Unity build has {len(found)} files named thor-* at its top; it must have one.")
    found[0].chmod(0o755)


def _download(target: Path) -> None:
    """The build that this version of the ai2thor package belongs to; the package checks its SHA-256."""
    from ai2thor.build import COMMIT_ID, Build  # noqa: PLC0415 - not there when there is nothing to download

    releases = target.parent / "releases"
    build = Build("Linux64", COMMIT_ID, include_private_scenes=False, releases_dir=str(releases))
    build.download()
    shutil.move(build.base_dir, target)
    shutil.rmtree(releases)


if __name__ == "__main__":
    install(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

"""What must hold before a policy's code runs in a pod: the right files, whole, and its packages."""

import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kinitro.backends.basilica.protocol import PodConfig
from kinitro.backends.wheels import MAX_BYTES, PIP_OPTIONS, TIMEOUT_S, failure, too_large, too_slow
from kinitro.deployments.pod.download import download
from kinitro.deployments.requirements import Requirement, read_requirements
from kinitro.deployments.trees import full_digest, list_files
from kinitro.errors import InfrastructureError

_FOLDER = "folder/"
_LOOK_S = 0.5


@dataclass(frozen=True)
class Prepared:
    """Where the policy's files are, and its packages if it asks for any."""

    folder: Path
    packages: Path | None


def prepare(config: PodConfig, token: str, archive: Path, work: Path) -> Prepared:
    """Puts the policy and its packages below `work`.

    Raises:
        PolicyError: its files or requirements are not accepted, as the executor would refuse them.
        InfrastructureError: the hub or the package index failed, or what came is not what the executor has seen.
    """
    folder = work / "policy"
    folder.mkdir()
    if config.repo is None:
        _unpack(archive, folder)
    else:
        download(config, token, folder)
        if full_digest(folder) != config.digest:
            raise InfrastructureError(
                f"{config.repo} at {config.revision} holds other files here than for the executor.",
                code="snapshot_differs",
            )
    for file in list_files(folder).values():
        file.chmod(0o444)
    return Prepared(folder, _install(read_requirements(folder), work))


def _unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            if name.startswith(_FOLDER):
                path = folder / name.removeprefix(_FOLDER)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(packed.read(name))


def _install(requirements: Sequence[Requirement], work: Path) -> Path | None:
    if not requirements:
        return None
    packages, wanted = work / "packages", work / "requirements.txt"
    packages.mkdir()
    wanted.write_text("\n".join(one.line for one in requirements) + "\n")
    command = [sys.executable, "-m", "pip", "install", *PIP_OPTIONS, "--target", str(packages), "-r", str(wanted)]
    output = work / "pip.log"
    with output.open("wb") as log:
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(os.environ))
        try:
            _watch(pip, packages)
        finally:
            pip.kill()
            pip.wait()
    if pip.returncode != 0:
        raise failure(output.read_text(errors="replace"))
    return packages


def _watch(pip: "subprocess.Popen[bytes]", packages: Path) -> None:
    """Waits for the end; ends it by `PolicyError` when it takes too long or grows too big."""
    end = time.monotonic() + TIMEOUT_S
    while pip.poll() is None:
        if time.monotonic() > end:
            raise too_slow()
        if sum(path.lstat().st_size for path in packages.rglob("*")) > MAX_BYTES:
            raise too_large()
        time.sleep(_LOOK_S)

"""What must hold before a policy's code runs in a pod: the right files, whole, and its packages."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kinitro.backends.basilica.protocol import PodConfig
from kinitro.backends.installing import install
from kinitro.backends.wheels import problem
from kinitro.deployments.pod.download import download
from kinitro.deployments.requirements import Requirement, read_requirements
from kinitro.deployments.trees import full_digest, list_files
from kinitro.errors import InfrastructureError

_FOLDER = "folder/"


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
    packages = work / "packages"
    packages.mkdir()
    outcome = install("\n".join(one.line for one in requirements).encode(), packages)
    if (found := problem(outcome.ending, outcome.said)) is not None:
        raise found
    return packages

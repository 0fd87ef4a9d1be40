"""Installs what a policy asks for, in a container that has a network and nothing of anybody's: no secret, no policy.

Only wheels with the hashes that were committed are installed, so nothing of the miner's runs there. What comes of it
is a volume, kept by the digest of image and requirements, that policies get read-only.
"""

import contextlib
import fcntl
import hashlib
import io
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinitro.backends import installing
from kinitro.backends.base import LaunchSpec, Limits, Role
from kinitro.backends.docker.container import hardened
from kinitro.backends.docker.engine import Engine
from kinitro.backends.docker.settings import HOME_LABEL, DockerSettings
from kinitro.backends.installing import INDEX_TIMEOUT_S, TIMEOUT_S, Ending
from kinitro.backends.wheels import problem
from kinitro.errors import InfrastructureError

FOLDER = "/deps"
_KEPT = 20
_WANTED = "requirements.txt"
_LOOK_S = 1.0
_ALL_S = TIMEOUT_S + 2 * INDEX_TIMEOUT_S + 30.0
"""The program ends itself long before."""
_KILLED = (137, 143)


@dataclass(frozen=True)
class Installer:
    """One container's worth of installing. `network` is one with a way out, off this host like all of ours."""

    engine: Engine
    settings: DockerSettings
    image: str
    labels: Mapping[str, str]
    network: str

    def obtain(self, requirements: Sequence[str]) -> str:
        """The name of the volume with these packages; installs them when it is not kept. Blocks.

        Raises:
            PolicyError: `requirements_failed`, no such wheel, another hash, too big or too slow.
            InfrastructureError: `requirements_network`, the package index can't be reached.
        """
        digest = hashlib.sha256("\n".join([self.image, *sorted(requirements)]).encode()).hexdigest()[:32]
        volume = f"kinitro-deps-{self.settings.home}-{digest}"
        records = self.settings.state / "docker-deps"
        with _locked(records / f"{digest}.lock"):
            record = records / f"{digest}.complete"
            if not record.exists() or not self._has(volume):
                self._install(volume, requirements)
            record.touch()
        self._forget_oldest(records)
        return volume

    def _has(self, volume: str) -> bool:
        from docker.errors import NotFound

        with contextlib.suppress(NotFound):
            self.engine.client.volumes.get(volume)
            return True
        return False

    def _install(self, volume: str, requirements: Sequence[str]) -> None:
        self._remove(volume)
        # No label of the run: it outlives it.
        self.engine.client.volumes.create(volume, labels={HOME_LABEL: self.settings.home})
        container = self._container(volume)
        try:
            # Not in its command: one argument holds 128 KiB at most.
            container.put_archive(FOLDER, _archive("\n".join(requirements).encode()))
            container.start()
            _raise_unless_installed(container)
        except BaseException:
            container.remove(force=True)
            self._remove(volume)
            raise
        container.remove(force=True)

    def _container(self, volume: str) -> Any:  # the SDK's
        spec = LaunchSpec("pip", Role.ENVIRONMENT, (), Path("/"), limits=Limits(memory_bytes=2 * 2**30, cpus=1.0))
        options = hardened(spec, {}) | {"dns": None}
        program = Path(installing.__file__).read_text("utf-8")
        return self.engine.client.containers.create(
            self.image,
            command=["python", "-I", "-c", program, FOLDER, f"{FOLDER}/{_WANTED}"],
            labels=dict(self.labels),
            network=self.network,
            volumes={volume: {"bind": FOLDER, "mode": "rw"}},
            working_dir=FOLDER,
            **options,
        )

    def _forget_oldest(self, records: Path) -> None:
        newest_first = sorted(records.glob("*.complete"), key=lambda path: path.stat().st_mtime, reverse=True)
        for record in newest_first[_KEPT:]:
            if self._remove(f"kinitro-deps-{self.settings.home}-{record.stem}"):
                record.unlink(missing_ok=True)

    def _remove(self, volume: str) -> bool:
        from docker.errors import APIError, NotFound

        try:
            self.engine.client.volumes.get(volume).remove(force=True)
        except NotFound:
            return True
        except APIError:  # a policy uses it
            return False
        return True


def _archive(wanted: bytes) -> bytes:
    """A tar archive with the one file that the program reads."""
    entry = tarfile.TarInfo(_WANTED)
    entry.size, entry.mode = len(wanted), 0o444
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(entry, io.BytesIO(wanted))
    return buffer.getvalue()


def _raise_unless_installed(container: Any) -> None:  # the SDK's
    ending = _ending(container)
    found = problem(ending, container.logs(tail=60).decode(errors="replace"))
    if found is not None:
        raise found


def _ending(container: Any) -> Ending:  # the SDK's
    """Waits for the program's own word. Without one it is the policy's fault, unless somebody killed the container."""
    end = time.monotonic() + _ALL_S
    while container.status not in {"exited", "dead"}:
        if time.monotonic() > end:
            return Ending.TOO_SLOW
        time.sleep(_LOOK_S)
        container.reload()
    state = container.attrs["State"]
    code = int(state["ExitCode"])
    if code in _KILLED and not state["OOMKilled"]:
        raise InfrastructureError(
            f"The container that installs a policy's packages was killed (exit code {code}).",
            code="installer_killed",
            advice="See who did: docker events --since 10m --filter event=kill, or dmesg when memory was short.",
        )
    return Ending(code) if code in set(Ending) else Ending.REFUSED


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One installation of the same at a time, whichever executor asks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""Installs what a policy asks for, in a container that has a network and nothing of anybody's: no secret, no policy.

Only wheels with the hashes that were committed are installed, so nothing of the miner's runs there. What comes of it
is a volume, kept by the digest of image and requirements, that policies get read-only.
"""

import contextlib
import fcntl
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinitro.backends.base import LaunchSpec, Limits, Role
from kinitro.backends.docker.container import hardened
from kinitro.backends.docker.engine import Engine
from kinitro.backends.docker.settings import HOME_LABEL, DockerSettings
from kinitro.backends.wheels import MAX_BYTES, PIP_OPTIONS, TIMEOUT_S, failure, too_large, too_slow

FOLDER = "/deps"
_KEPT = 20
_LOOK_S = 1.0
_PIP = f"pip install {' '.join(PIP_OPTIONS)} --target {FOLDER} -r /dev/stdin <<'END'\n"


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
        container = self._container(volume, requirements)
        try:
            container.start()
            _watch(container)
            _raise_unless_installed(container)
        except BaseException:
            container.remove(force=True)
            self._remove(volume)
            raise
        container.remove(force=True)

    def _container(self, volume: str, requirements: Sequence[str]) -> Any:  # the SDK's
        spec = LaunchSpec("pip", Role.ENVIRONMENT, (), Path("/"), limits=Limits(memory_bytes=2 * 2**30, cpus=1.0))
        scratch = {"/tmp": "size=4g,mode=1777"}  # noqa: S108 - the container's own
        options = hardened(spec, {}) | {"dns": None, "tmpfs": scratch}
        return self.engine.client.containers.create(
            self.image,
            command=["sh", "-c", _PIP + "\n".join(requirements) + "\nEND"],
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


def _watch(container: Any) -> None:  # the SDK's
    """Waits for the end; ends it by `PolicyError` when it takes too long or grows too big."""
    end = time.monotonic() + TIMEOUT_S
    while True:
        time.sleep(_LOOK_S)
        container.reload()
        if container.status != "running":
            return
        if time.monotonic() > end:
            raise too_slow()
        if _size(container) > MAX_BYTES:
            raise too_large()


def _size(container: Any) -> int:  # the SDK's
    from docker.errors import APIError

    with contextlib.suppress(APIError, ValueError, IndexError):  # it may have ended
        return int(container.exec_run(["du", "-sb", FOLDER]).output.split()[0])
    return 0


def _raise_unless_installed(container: Any) -> None:  # the SDK's
    if int(container.wait()["StatusCode"]) != 0:
        raise failure(container.logs(tail=60).decode(errors="replace"))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One installation of the same at a time, whichever executor asks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

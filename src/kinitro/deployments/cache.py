"""The snapshot cache on the disk: what is whole in it, who uses it, and what makes way for new ones.

Processes share it. Beside each folder lies a record, `{revision}.complete`: its digests say whether the folder is
whole, its time when it was used last, and a shared lock on it that somebody uses it now.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kinitro.deployments.trees import full_digest, list_files, tree_digest
from kinitro.errors import PolicyError

STAGING = ".staging"
_ABANDONED_S = 3600.0
"""Longer than any download may take: who began it is gone."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A policy's files on this machine. The digests are those of the files as they are now."""

    path: Path
    tree_digest: str
    full_digest: str


@dataclass(frozen=True, slots=True)
class _Record:
    """What is known of a published folder, beside it on the disk."""

    full_digest: str
    tree_digest: str
    size: int


class Hold:
    """Keeps a snapshot from making way until it is released, or until this process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def whole(path: Path) -> Snapshot | None:
    """The published folder if it is whole, and notes that it was used; what is not whole is forgotten."""
    try:
        record = _Record(**json.loads(_record_path(path).read_text()))
        if full_digest(path) == record.full_digest:
            os.utime(_record_path(path))
            return Snapshot(path, record.tree_digest, record.full_digest)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, PolicyError):
        pass
    _record_path(path).unlink(missing_ok=True)
    return None


def hold(path: Path) -> Hold | None:
    """Holds a published folder; None when it just went."""
    with suppress(FileNotFoundError, BlockingIOError):
        descriptor = os.open(_record_path(path), os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), _record_path(path).stat()):
                return Hold(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
    return None


def publish(staging: Path, path: Path) -> Snapshot:
    """Moves a complete folder to its place."""
    files = list_files(staging)
    for file in files.values():
        file.chmod(0o444)
    size = sum(file.stat().st_size for file in files.values())
    record = _Record(full_digest(staging), tree_digest(staging), size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(path.parent / ".lock"):
        if (present := whole(path)) is not None:  # another process was first
            return present
        shutil.rmtree(path, ignore_errors=True)
        staging.chmod(0o755)
        staging.rename(path)
        marker = staging.with_name(f"{staging.name}.complete")
        marker.write_text(json.dumps(asdict(record)))
        marker.replace(_record_path(path))
    return Snapshot(path, record.tree_digest, record.full_digest)


def make_room(root: Path, max_bytes: int, keep: Path) -> None:
    """Removes the least recently used snapshots until all together take at most `max_bytes`.

    Never removes `keep` or what anybody holds, so that more may stay than fits. Leftovers of downloads whose process
    was killed go too.
    """
    _remove_leftovers(root / STAGING)
    records = sorted(_records(root), key=lambda each: each[0])
    excess = sum(size for _, size, _ in records) - max_bytes
    for _, size, path in records:
        if excess <= 0:
            return
        if path != keep and _remove(root, path):
            excess -= size


def _records(root: Path) -> Iterator[tuple[float, int, Path]]:
    """When it was used last, bytes, and path of each snapshot."""
    for marker in root.glob("*--*/*.complete"):
        with suppress(FileNotFoundError, ValueError, TypeError):
            record = _Record(**json.loads(marker.read_text()))
            yield marker.stat().st_mtime, record.size, marker.with_suffix("")


def _remove(root: Path, path: Path) -> bool:
    with suppress(FileNotFoundError, BlockingIOError), _record_path(path).open() as marker:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _record_path(path).unlink()
        # Out of its place by one step: nobody must meet half of it.
        gone = root / STAGING / f"removed-{path.name}-{time.monotonic_ns()}"
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        return True
    return False


def _remove_leftovers(staging: Path) -> None:
    for path in staging.glob("*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.complete")


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """One process at a time; the lock goes with its holder."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""A local, content-checked cache of policy folders. What is in it can be started without the hub."""

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from kinitro.errors import ConfigurationError, InfrastructureError, PolicyError
from kinitro.types import PolicyRef

_REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[0-9a-f]{40}")
_NOT_DIGESTED = frozenset({"kinitro.json", "README.md"})
_NOT_COPIED = shutil.ignore_patterns("__pycache__", ".git", ".cache")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A policy's files on this machine. `tree_digest` is that of the files as they are now."""

    path: Path
    tree_digest: str


class SnapshotSource(Protocol):
    """Where snapshots come from: a hub."""

    async def fetch(self, ref: PolicyRef, destination: Path) -> None:
        """Puts the repo's files at exactly this revision into an existing empty folder, as plain files.

        `PolicyError` when the snapshot is missing, refused or too big; `InfrastructureError` when the hub can't say.
        """
        ...

    async def check(self) -> None:
        """Raises `InfrastructureError` unless the hub answers us."""
        ...


class SnapshotStore:
    """Snapshots under `root/{owner}--{name}/{revision}/`, real files only.

    A folder appears there by one rename when it is complete, with its digests beside it. Digests are checked at every
    use: a policy that changed its own files is fetched again.
    """

    def __init__(self, root: Path, source: SnapshotSource | None = None) -> None:
        self._root = root
        self._source = source

    async def obtain(self, ref: PolicyRef) -> Snapshot:
        """The snapshot, from the cache when it is there.

        Raises:
            PolicyError: the name or revision is not valid, or as `SnapshotSource.fetch`.
            InfrastructureError: as `SnapshotSource.fetch`; or not cached and there is no hub; or the disk failed.
        """
        path = self._path(ref)
        try:
            if (snapshot := await asyncio.to_thread(_cached, path)) is not None:
                return snapshot
            return await self._fetch(ref, path)
        except OSError as error:
            raise InfrastructureError(
                f"The snapshot cache {self._root} can't be used: {error}.",
                code="snapshot_cache",
                advice="Free some disk space or set KINITRO_HOME to another folder.",
            ) from error

    async def check(self) -> None:
        """Raises `InfrastructureError` unless new snapshots can be had."""
        if self._source is not None:
            await self._source.check()

    def add_local(self, folder: Path, repo: str) -> PolicyRef:
        """Puts a local folder into the cache and returns how to refer to it: no hub is needed to run it.

        The revision is the first 40 digits of the folder's full digest. Raises `ConfigurationError` when there is no
        such folder or it holds links or special files.
        """
        if not folder.is_dir():
            raise ConfigurationError(f"There is no policy folder {folder}.", advice="Give the path of a folder.")
        staging = self._new_staging()
        try:
            list_files(folder)
            shutil.copytree(folder, staging, symlinks=True, dirs_exist_ok=True, ignore=_NOT_COPIED)
            ref = PolicyRef(repo, _digest(staging, frozenset())[:40])
            _publish(staging, self._path(ref))
        except PolicyError as error:
            raise ConfigurationError(f"The policy folder {folder} can't be used: {error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return ref

    async def _fetch(self, ref: PolicyRef, path: Path) -> Snapshot:
        if self._source is None:
            raise InfrastructureError(
                f"{ref.repo} at {ref.revision} is not in the snapshot cache, and no hub is set up.",
                code="hub_missing",
                advice="Install the hub extra: pip install 'kinitro[hub]'.",
            )
        staging = await asyncio.to_thread(self._new_staging)
        try:
            await self._source.fetch(ref, staging)
            return await asyncio.to_thread(_publish, staging, path)
        finally:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)

    def _new_staging(self) -> Path:
        """A new folder on the cache's own file system, so that a rename can publish it."""
        staging = self._root / ".staging"
        staging.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=staging))

    def _path(self, ref: PolicyRef) -> Path:
        if not _REPO.fullmatch(ref.repo) or "--" in ref.repo or ".." in ref.repo:
            raise PolicyError(f"{ref.repo!a} is not a repo id (owner/name).", code="snapshot_refused")
        if not _REVISION.fullmatch(ref.revision):
            raise PolicyError(f"{ref.revision!a} is not a full revision (40 digits).", code="snapshot_refused")
        return self._root / ref.repo.lower().replace("/", "--") / ref.revision


def tree_digest(folder: Path) -> str:
    """SHA-256 (64 hex digits) of a policy's files: sorted relative paths and contents, each with its length.

    `kinitro.json` and `README.md` at the top do not count: two trees that differ only there are copies. Raises
    `PolicyError` when the tree holds links or special files.
    """
    return _digest(folder, _NOT_DIGESTED)


def list_files(folder: Path) -> dict[str, Path]:
    """Every file by its relative path, sorted. `PolicyError` for a link or special file."""
    return dict(sorted((path.relative_to(folder).as_posix(), path) for path in _walk(folder)))


def _walk(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as scanned:
        entries = list(scanned)
    for entry in entries:
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(Path(entry.path))
        elif stat.S_ISREG(mode):
            yield Path(entry.path)
        else:
            raise PolicyError(f"The snapshot holds {entry.name!a}, which is not a plain file.", code="snapshot_refused")


def _digest(folder: Path, left_out: frozenset[str]) -> str:
    total = hashlib.sha256()
    for name, path in list_files(folder).items():
        if name in left_out:
            continue
        encoded = os.fsencode(name)
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        total.update(len(encoded).to_bytes(8, "big") + encoded + path.stat().st_size.to_bytes(8, "big") + content)
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class _Record:
    """What is known of a published folder, beside it on the disk."""

    full_digest: str
    tree_digest: str


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.complete")


def _cached(path: Path) -> Snapshot | None:
    """The published folder if it is whole; what is not whole is removed."""
    try:
        record = _Record(**json.loads(_record_path(path).read_text()))
        if _digest(path, frozenset()) == record.full_digest:
            return Snapshot(path, record.tree_digest)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, PolicyError):
        pass
    _record_path(path).unlink(missing_ok=True)
    return None


def _publish(staging: Path, path: Path) -> Snapshot:
    for file in list_files(staging).values():
        file.chmod(0o444)
    record = _Record(_digest(staging, frozenset()), tree_digest(staging))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(path.parent / ".lock"):
        if (present := _cached(path)) is not None:  # another process was first
            return present
        shutil.rmtree(path, ignore_errors=True)
        staging.chmod(0o755)
        staging.rename(path)
        marker = staging.with_name(f"{staging.name}.complete")
        marker.write_text(json.dumps(asdict(record)))
        marker.replace(_record_path(path))
    return Snapshot(path, record.tree_digest)


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """One process at a time; the lock goes with its holder."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

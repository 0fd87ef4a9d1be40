"""A local, content-checked cache of policy folders. What is in it can be started without the hub."""

import asyncio
import errno
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kinitro.deployments.cache import STAGING, Hold, Snapshot, hold, make_room, publish, whole
from kinitro.deployments.trees import full_digest, list_files
from kinitro.errors import ConfigurationError, InfrastructureError, PolicyError, how_to_install
from kinitro.types import PolicyRef

DEFAULT_BYTES = 50 * 10**9
_REPO = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[0-9a-f]{40}")
_NAME_REFUSED = (errno.ENAMETOOLONG, errno.EINVAL)
_NOT_COPIED = shutil.ignore_patterns("__pycache__", ".git", ".cache")


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A snapshot in use; `hold` says until when."""

    snapshot: Snapshot
    hold: Hold


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
    use: a policy that changed its own files is fetched again. After each fetch, what was used least recently makes way
    until all take at most `max_bytes`; what is borrowed never does.
    """

    def __init__(self, root: Path, source: SnapshotSource | None = None, *, max_bytes: int = DEFAULT_BYTES) -> None:
        self._root = root
        self._source = source
        self._max_bytes = max_bytes

    async def borrow(self, ref: PolicyRef) -> Borrowed:
        """The snapshot, kept in place until it is released. Raises as `obtain`."""
        while True:
            snapshot = await self.obtain(ref)
            if (held := await asyncio.to_thread(hold, snapshot.path)) is not None:
                return Borrowed(snapshot, held)

    async def obtain(self, ref: PolicyRef) -> Snapshot:
        """The snapshot, from the cache when it is there.

        Raises:
            PolicyError: the name or revision is not valid, or as `SnapshotSource.fetch`.
            InfrastructureError: as `SnapshotSource.fetch`; or not cached and there is no hub; or the disk failed.
        """
        path = self._path(ref)
        try:
            if (snapshot := await asyncio.to_thread(whole, path)) is not None:
                return snapshot
            return await self._fetch(ref, path)
        except OSError as error:
            if error.errno in _NAME_REFUSED:
                raise PolicyError(
                    f"The repo holds a file whose name no disk takes: {error.strerror}.", code="snapshot_refused"
                ) from error
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
            ref = PolicyRef(repo, full_digest(staging)[:40])
            publish(staging, self._path(ref))
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
                advice=how_to_install("hub"),
            )
        staging = await asyncio.to_thread(self._new_staging)
        try:
            await self._source.fetch(ref, staging)
            snapshot = await asyncio.to_thread(publish, staging, path)
            await asyncio.to_thread(make_room, self._root, self._max_bytes, path)
            return snapshot
        finally:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)

    def _new_staging(self) -> Path:
        """A new folder on the cache's own file system, so that a rename can publish it."""
        staging = self._root / STAGING
        staging.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=staging))

    def _path(self, ref: PolicyRef) -> Path:
        if not _REPO.fullmatch(ref.repo) or "--" in ref.repo or ".." in ref.repo:
            raise PolicyError(f"{ref.repo!a} is not a repo id (owner/name).", code="snapshot_refused")
        if not _REVISION.fullmatch(ref.revision):
            raise PolicyError(f"{ref.revision!a} is not a full revision (40 digits).", code="snapshot_refused")
        return self._root / ref.repo.lower().replace("/", "--") / ref.revision

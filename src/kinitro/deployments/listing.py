"""What a hub says a repo holds, checked before and after its download. Everything in it is hostile until then."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kinitro.deployments.limits import GB, HubLimits
from kinitro.deployments.trees import list_files
from kinitro.errors import InfrastructureError, PolicyError
from kinitro.types import PolicyRef

OWNER_FILE = "kinitro.json"
"""Says whose policy a repo is: `{"hotkey": "<ss58 address>"}` (contracts section 6)."""
# File systems take 255 and 4096: the SDK appends its own endings, and a folder of ours comes before.
_MAX_NAME_BYTES = 200
_MAX_PATH_BYTES = 1000


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file as the hub lists it. `sha256` is given for files in LFS, `blob_id` (git's name for it) for others."""

    size: int | None
    blob_id: str | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A repo's files by path at `revision`, the full one that the hub resolved."""

    revision: str | None
    files: Mapping[str, ListedFile]

    @property
    def size(self) -> int:
        """Bytes in all, as far as the hub says."""
        return sum(file.size or 0 for file in self.files.values())


def check_listing(listing: Listing, ref: PolicyRef, limits: HubLimits) -> None:
    """Before anything is downloaded. Raises `PolicyError` (`snapshot_missing`, `_refused` or `_too_big`)."""
    if listing.revision != ref.revision:
        raise PolicyError(
            f"The hub resolves {ref.revision} to another commit, {listing.revision}: it is not a commit's own name.",
            code="snapshot_refused",
        )
    files = listing.files
    if not files or len(files) > limits.max_files:
        raise PolicyError(
            f"The repo holds {len(files)} files; between 1 and {limits.max_files} are taken.",
            code="snapshot_too_big" if files else "snapshot_missing",
        )
    for name in files:
        check_name(name)
    _check_size(listing, limits)


def check_name(name: str) -> None:
    """Refuses a path that could leave its folder or that not every file system takes."""
    parts = name.split("/")
    unsafe = any(part in ("", ".", "..") or len(os.fsencode(part)) > _MAX_NAME_BYTES for part in parts)
    unsafe = unsafe or len(os.fsencode(name)) > _MAX_PATH_BYTES
    if unsafe or "\\" in name or not name.isprintable() or parts[0] == ".cache" or len(parts) > 32:
        raise PolicyError(f"The repo holds a file named {name[:200]!a}.", code="snapshot_refused")


def _check_size(listing: Listing, limits: HubLimits) -> None:
    if any(file.size is None for file in listing.files.values()):
        raise InfrastructureError("The hub does not say how large the repo's files are.", code="hub_unreachable")
    if listing.size > limits.max_bytes:
        raise PolicyError(
            f"The repo holds {listing.size / GB:.1f} GB; at most {limits.max_bytes / GB:g} GB are taken.",
            code="snapshot_too_big",
            advice="Remove what the policy does not need at run time.",
        )


def check_room(listing: Listing, folder: Path) -> None:
    """Raises `InfrastructureError` when the disk has no room for it."""
    free = shutil.disk_usage(folder).free
    if listing.size > free:
        raise InfrastructureError(
            f"The snapshot takes {listing.size / GB:.1f} GB and the disk of {folder} has {free / GB:.1f} GB left.",
            code="snapshot_cache",
            advice="Free some disk space or set KINITRO_HOME to another folder.",
        )


def difference(folder: Path, expected: Mapping[str, ListedFile]) -> str | None:
    """A path at which the folder is not exactly what was listed: names, sizes and, by the hub's digests, contents."""
    present = list_files(folder)
    wrong = set(present) ^ set(expected)
    wrong |= {name for name in set(present) & set(expected) if not matches(present[name], expected[name])}
    return min(wrong, default=None)


def matches(path: Path, file: ListedFile) -> bool:
    """Whether a file here has the size and content that the hub lists."""
    if file.size is None or path.stat().st_size != file.size:
        return False
    if file.sha256 is not None:
        return _digest(path, hashlib.sha256()) == file.sha256
    return file.blob_id is None or _digest(path, _git_blob(file.size)) == file.blob_id


def _git_blob(size: int) -> "hashlib._Hash":
    # Git's own object name; the hub gives no other digest for files outside LFS.
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def _digest(path: Path, digest: "hashlib._Hash") -> str:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

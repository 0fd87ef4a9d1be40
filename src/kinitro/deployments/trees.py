"""Folders of plain files: what is in one, and a digest that tells two apart."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from kinitro.errors import PolicyError

_NOT_DIGESTED = frozenset({"kinitro.json", "README.md"})


def tree_digest(folder: Path) -> str:
    """SHA-256 (64 hex digits) of a policy's files: sorted relative paths and contents, each with its length.

    `kinitro.json` and `README.md` at the top do not count: two trees that differ only there are copies. Raises
    `PolicyError` when the tree holds links or special files.
    """
    return full_digest(folder, _NOT_DIGESTED)


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


def full_digest(folder: Path, left_out: frozenset[str] = frozenset()) -> str:
    """The same over all files but those `left_out` at the top."""
    total = hashlib.sha256()
    for name, path in list_files(folder).items():
        if name in left_out:
            continue
        encoded = os.fsencode(name)
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        total.update(len(encoded).to_bytes(8, "big") + encoded + path.stat().st_size.to_bytes(8, "big") + content)
    return total.hexdigest()

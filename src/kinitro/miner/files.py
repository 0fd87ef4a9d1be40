"""Which of a folder's files are uploaded, and whether they may be."""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from kinitro.deployments.limits import GB, HubLimits
from kinitro.deployments.listing import check_name
from kinitro.errors import ConfigurationError, PolicyError
from kinitro.miner.findings import Finding, Verdict

LEFT_OUT = frozenset(
    {".git", ".cache", "__pycache__", ".venv", "venv", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".DS_Store"}
)
"""Names that are never uploaded, wherever they are."""
_SECRET_NAMES = (".env", ".env.*", "*.pem", "*.key", "id_rsa*", "id_ed25519*", "coldkey*", "hotkeys")
_TOKEN = re.compile(rb"\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,})\b|-----BEGIN [A-Z ]*PRIVATE KEY-----")
_SEARCHED_BYTES = 1024 * 1024
_SHOWN = 5


@dataclass(frozen=True)
class FolderFiles:
    """What would be uploaded: plain files by relative path with their bytes, and what can't be."""

    sizes: dict[str, int]
    odd: tuple[str, ...]

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.sizes.values())


def find_files(folder: Path) -> FolderFiles:
    """Walks the folder without following links. `ConfigurationError` when there is none."""
    if not folder.is_dir():
        raise ConfigurationError(
            f"There is no policy folder {folder}.", advice="Make one with `kinitro miner init PATH`."
        )
    sizes: dict[str, int] = {}
    odd: list[str] = []
    for entry in _walk(folder):
        name = Path(entry.path).relative_to(folder).as_posix()
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            sizes[name] = status.st_size
        else:
            odd.append(name)
    return FolderFiles(dict(sorted(sizes.items())), tuple(sorted(odd)))


def check_files(folder: Path, limits: HubLimits) -> list[Finding]:
    """Whether the folder may be uploaded and would be accepted: kinds of files, names, size, secrets."""
    found = find_files(folder)
    problems = [
        *_listed("has links or special files, which no evaluator takes", found.odd),
        *_listed("has names that no evaluator takes", [name for name in found.sizes if not _is_plain(name)]),
        *_listed("would publish what looks like a secret", _secrets(folder, found)),
    ]
    if "server.py" not in found.sizes:
        problems.append("has no server.py; `kinitro miner init` writes one")
    elif "policy.py" not in found.sizes and b"import_module" in (folder / "server.py").read_bytes():
        problems.append("has no policy.py, which its server.py imports")
    if len(found.sizes) > limits.max_files:
        problems.append(f"holds {len(found.sizes)} files; at most {limits.max_files} are taken")
    if found.total > limits.max_bytes:
        problems.append(
            f"holds {found.total / GB:.1f} GB; at most {limits.max_bytes / GB:g} GB are taken "
            "(KINITRO_MAX_REPO_SIZE_GB)"
        )
    if problems:
        return [Finding(Verdict.FIX, "files", f"the folder {problem}") for problem in problems]
    return [Finding(Verdict.GOOD, "files", f"{len(found.sizes)} files, {shown_size(found.total)}")]


def stage(folder: Path, destination: Path) -> FolderFiles:
    """Puts exactly what is uploaded into a new folder: hard links where the disk allows, else copies."""
    found = find_files(folder)
    for name in found.sizes:
        target = destination / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(folder / name, target, follow_symlinks=False)
        except OSError:
            shutil.copyfile(folder / name, target, follow_symlinks=False)
    return found


def shown_size(size: int) -> str:
    """Bytes for a person."""
    for unit, factor in (("GB", GB), ("MB", 10**6), ("kB", 1000)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _walk(folder: Path) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(folder) as scanned:
        entries = [entry for entry in scanned if entry.name not in LEFT_OUT and not entry.name.endswith(".pyc")]
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            yield entry


def _is_plain(name: str) -> bool:
    try:
        check_name(name)
    except PolicyError:
        return False
    return True


def _secrets(folder: Path, found: FolderFiles) -> list[str]:
    return [
        name
        for name, size in found.sizes.items()
        if any(fnmatch(part, pattern) for part in name.split("/") for pattern in _SECRET_NAMES)
        or (size <= _SEARCHED_BYTES and _TOKEN.search((folder / name).read_bytes()))
    ]


def _listed(problem: str, names: "tuple[str, ...] | list[str]") -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{problem}: {', '.join(ascii(name)[1:-1] for name in names[:_SHOWN])}{more}"]

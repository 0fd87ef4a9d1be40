"""Which runs of a backend live. A run holds a lock on a file as long as it lives, whoever kills it."""

import contextlib
import fcntl
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def begin_run(folder: Path, digits: int = 6) -> tuple[str, IO[str]]:
    """A new run's name (hex digits) and its lock, held while the file is open, by any process that inherits it."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        run = secrets.token_hex(digits // 2)
        lock = _path(folder, run).open("w")
        if _try_lock(lock):
            return run, lock
        lock.close()


def noted_runs(folder: Path) -> set[str]:
    """Runs of which something may be left, living ones among them."""
    return {path.stem for path in folder.glob("*.lock")}


def forget_run(folder: Path, run: str) -> None:
    """Nothing of it is left."""
    _path(folder, run).unlink(missing_ok=True)


@contextlib.contextmanager
def if_dead(folder: Path, run: str) -> Iterator[bool]:
    """Whether nobody holds the run's lock; if so this block does."""
    folder.mkdir(parents=True, exist_ok=True)
    with _path(folder, run).open("a") as file:
        yield _try_lock(file)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _path(folder: Path, run: str) -> Path:
    return folder / f"{run}.lock"

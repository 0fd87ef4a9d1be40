"""The program that installs a policy's packages: only wheels with the hashes that were committed, so none of it runs.

It runs in a container of ours and in pods, where there is no Kinitro: the standard library alone. Whose fault a failure
is it never reads from what pip prints, which holds words that the policy chose (docs/decisions/0024).
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

MAX_BYTES = 6 * 2**30
TIMEOUT_S = 240.0
INDEX_TIMEOUT_S = 60.0
PROBE = "uvicorn"
"""A small package that every index has from which the runner image can be built."""
_TRIES = 2
_LOOK_S = 1.0
_PER_FILE = 4096
"""The least that a file or folder takes, an empty one too."""
_LAST_LINES = 8
_LAST_BYTES = 4000
_SCRATCH = ".installing"
_EVERY_TIME = ("--no-cache-dir", "--no-input", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:")


class Ending(IntEnum):
    """What became of it, as an exit code that neither Python nor a shell uses."""

    INSTALLED = 0
    REFUSED = 80
    TOO_SLOW = 81
    TOO_LARGE = 82
    NO_INDEX = 83
    NO_DISK = 84


@dataclass(frozen=True)
class Outcome:
    """What became of it and the last that pip said."""

    ending: Ending
    said: str = ""


def install(wanted: bytes, target: Path) -> Outcome:
    """Fills the folder `target`, whose contents it removes, with what the lines of `wanted` name.

    A failure is the policy's unless the same pip can't get `PROBE` from the same index. What was broken for a moment
    gets a second try in the same time. `OSError` when the disk can't be used.
    """
    end = time.monotonic() + TIMEOUT_S
    outcome = Outcome(Ending.TOO_SLOW)
    for _ in range(_TRIES):
        outcome = _attempt(wanted, target, end)
        if outcome.ending in {Ending.INSTALLED, Ending.TOO_LARGE}:
            break
        # What the attempt left is still there: a disk that is full of less than `MAX_BYTES` is not the policy's fault.
        if (trouble := _trouble_with_index(target / _SCRATCH)) is not None:
            return Outcome(Ending.NO_INDEX, trouble)
    return outcome


def main() -> None:
    """`python -I -c SOURCE TARGET WANTED`: exits with the ending and prints what pip said last."""
    target, wanted = (Path(argument) for argument in sys.argv[1:])
    try:
        outcome = install(wanted.read_bytes(), target)
    except OSError as error:
        outcome = Outcome(Ending.NO_DISK, str(error))
    sys.stdout.buffer.write(outcome.said.encode(errors="replace"))
    sys.exit(outcome.ending)


def _attempt(wanted: bytes, target: Path, end: float) -> Outcome:
    scratch = target / _SCRATCH
    _clear(target)
    scratch.mkdir()
    (scratch / "requirements.txt").write_bytes(wanted)
    options = ["--no-compile", "--require-hashes", "--target", str(target), "-r", str(scratch / "requirements.txt")]
    with _pip("install", options, scratch) as pip:
        while pip.poll() is None:
            if time.monotonic() > end:
                return Outcome(Ending.TOO_SLOW)
            if _size(target) > 2 * MAX_BYTES:  # wheels and what they hold
                return Outcome(Ending.TOO_LARGE)
            time.sleep(_LOOK_S)
    if pip.returncode != 0:
        return Outcome(Ending.REFUSED, _last_lines(scratch))
    _remove(scratch)
    return Outcome(Ending.TOO_LARGE if _size(target) > MAX_BYTES else Ending.INSTALLED)


def _trouble_with_index(scratch: Path) -> str | None:
    """What pip says when it can't get `PROBE`; None when it can."""
    with _pip("download", ["--dest", str(scratch / "probe"), PROBE], scratch) as pip:
        try:
            code = pip.wait(INDEX_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"pip gets no {PROBE} from it within {INDEX_TIMEOUT_S:g} s"
    return _last_lines(scratch) if code else None


@contextmanager
def _pip(command: str, options: list[str], scratch: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Pip at work, with `scratch` for its temporary files and its output. Killed at the end of the block."""
    # Isolated: its working directory and PYTHONPATH may hold what the policy chose.
    whole = [sys.executable, "-I", "-m", "pip", command, *_EVERY_TIME, *options]
    environment = os.environ | {"TMPDIR": str(scratch)}
    with (scratch / "output").open("wb") as log:
        pip = subprocess.Popen(whole, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    try:
        yield pip
    finally:
        pip.kill()
        pip.wait()


def _last_lines(scratch: Path) -> str:
    with (scratch / "output").open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_BYTES))
        return "\n".join(log.read().decode(errors="replace").strip().splitlines()[-_LAST_LINES:])


def _size(folder: Path) -> int:
    """What everything below it takes. Not by recursion, whose depth the policy would choose."""
    total, waiting = 0, [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    total += max(_PER_FILE, entry.stat(follow_symlinks=False).st_size)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:  # pip has moved or removed it
            continue
    return total


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        _remove(path)


def _remove(path: Path) -> None:
    subprocess.run(["rm", "-rf", "--", str(path)], check=False)  # shutil recurses


if __name__ == "__main__":
    main()

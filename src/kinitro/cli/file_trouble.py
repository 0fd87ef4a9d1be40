"""What a disk refuses, and a file that can't be written, in words for a person."""

import errno
import os
from pathlib import Path

from kinitro.errors import ConfigurationError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def file_trouble(error: OSError) -> tuple[str, str] | None:
    """The path with the cause, and what to do; None for an error that is not about a file: that may be a bug."""
    if error.filename is None and error.errno not in _FULL:
        return None
    # Of a copy, it is the place of the new file that is full.
    name = (error.errno in _FULL and error.filename2) or error.filename
    place = Path(os.fsdecode(name)) if isinstance(name, str | bytes | os.PathLike) else None
    return f"{place or 'A file'} can't be read or written: {error.strerror}.", _advice(error, place)


def check_output(flag: str, path: Path, suffix: str) -> None:
    """Before the work that ends in this file. Raises `ConfigurationError` when it could not be written."""
    if path.suffix.lower() != suffix:
        raise ConfigurationError(f"{path} does not end in {suffix}.", advice=f"Name it so: {flag} FILE{suffix}")
    if not path.parent.is_dir():
        raise ConfigurationError(
            f"{path} can't be written: there is no folder {path.parent}.",
            advice=f"Make it (mkdir -p {path.parent}), or give another path with {flag}.",
        )
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        cause = f"{path} is a folder" if path.is_dir() else f"the folder {path.parent} is read-only for you"
        raise ConfigurationError(f"{path} can't be written: {cause}.", advice=f"Give another path with {flag}.")


def _advice(error: OSError, place: Path | None) -> str:
    from kinitro.settings import home_directory

    if error.errno in _FULL:
        what = "Make room on that disk, or use another"
    elif error.errno in _FORBIDDEN:
        what = "Use a place where you may write, or run it as the user whose files they are"
    else:
        what = "Check the path"
    home = home_directory()
    ours = place is not None and place.absolute().is_relative_to(home)
    return f"{what}: KINITRO_HOME names where Kinitro keeps its data, now {home}." if ours else f"{what}."

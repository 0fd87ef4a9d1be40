"""An executor's name when none was chosen: the same after a restart, so that what was found out about it stays."""

import fcntl
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TextIO

from kinitro.errors import ConfigurationError


@contextmanager
def own_name(folder: Path) -> Iterator[str]:
    """The first name kept in the folder that no running executor has, or a new one; ours until the block ends.

    `ConfigurationError` when nothing can be kept there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _first_free(folder)
    except OSError as error:
        raise ConfigurationError(
            f"This executor's name can't be kept in {folder}: {error.strerror}.",
            advice="Correct its permissions, set KINITRO_HOME to another folder, or choose a name: --executor-id.",
        ) from None
    with file:
        name = file.read()
        if not name:
            # Machines share host names; what is contradicted on one must not be charged to another.
            name = f"{socket.gethostname()}-{secrets.token_hex(3)}"
            file.write(name)
            file.flush()
        yield name


def _first_free(folder: Path) -> TextIO:
    for number in count(1):
        file = (folder / str(number)).open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        file.seek(0)
        return file
    raise AssertionError("there is no last number")

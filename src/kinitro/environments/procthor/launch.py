"""How AI2-THOR's player is started here: which program, over which server, on which display, and on what machine."""

import os
import platform
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from kinitro.errors import ConfigurationError

UNITY_VARIABLE: Final = "KINITRO_PROCTHOR_UNITY"
"""Where AI2-THOR's Unity build is: the executable, or the folder that holds it."""
_EXECUTABLES: Final = "thor-*"
_INSTALL: Final = (
    f"Set {UNITY_VARIABLE} to the build's executable, or use --unity. docs/procthor.md says where the build comes from."
)


class ServerType(StrEnum):
    """Which of AI2-THOR's two protocols the player speaks."""

    FIFO = "fifo"
    WSGI = "wsgi"


@dataclass(frozen=True)
class PlayerLaunch:
    """One way to start a player. `command` is split as a shell would.

    `stand_in` says that it is not AI2-THOR: a real environment refuses a player that says so itself, whatever
    started it.
    """

    command: str
    server: ServerType = ServerType.FIFO
    needs_display: bool = True
    stand_in: bool = False
    start_timeout_s: float = 120.0
    step_timeout_s: float = 60.0
    stop_timeout_s: float = 5.0


def unity_launch(path: Path | None = None) -> PlayerLaunch:
    """AI2-THOR's own player, from `path` or else the environment variable.

    Raises `ConfigurationError` where the machine can't run it, or no build is there.
    """
    check_machine(platform.system(), platform.machine())
    return PlayerLaunch(shlex.quote(str(find_unity(path))))


def check_machine(system: str, machine: str) -> None:
    """Raises `ConfigurationError` unless this is Linux on x86-64."""
    if system == "Linux" and machine in ("x86_64", "AMD64"):
        return
    raise ConfigurationError(
        f"ProcTHOR needs Linux on x86-64; this is {system} on {machine}, for which AI2-THOR has no Linux build.",
        advice="Run it on an x86-64 Linux machine. Emulation does not work.",
    )


def find_unity(path: Path | None = None) -> Path:
    """The executable of the Unity build at `path`, else at the environment variable's. Raises `ConfigurationError`."""
    if path is None and not os.environ.get(UNITY_VARIABLE):
        raise ConfigurationError("AI2-THOR's Unity build is not set up here.", advice=_INSTALL)
    place = path or Path(os.environ[UNITY_VARIABLE])
    found = sorted(each for each in place.glob(_EXECUTABLES) if each.is_file()) if place.is_dir() else [place]
    if len(found) != 1 or not found[0].is_file():
        raise ConfigurationError(
            f"There is no Unity build of AI2-THOR at {place} (the program, or a folder with one {_EXECUTABLES}).",
            advice=_INSTALL,
        )
    if not os.access(found[0], os.X_OK) or found[0].read_bytes()[:4] != b"\x7fELF":
        raise ConfigurationError(f"{found[0]} is no Linux program that can be run.", advice=_INSTALL)
    return found[0].resolve()


def display_command(environment: Mapping[str, str]) -> list[str] | None:
    """The X server to start, or None when there is a display already. Raises `ConfigurationError` without either."""
    if environment.get("DISPLAY"):
        return None
    program = shutil.which("Xvfb")
    if program is None:
        raise ConfigurationError(
            "AI2-THOR's player draws on an X display; there is none, and Xvfb is not installed.",
            advice="Install it (sudo apt-get install xvfb), or set DISPLAY to one that runs.",
        )
    return [program, "-displayfd", "{fd}", "-screen", "0", "1280x1024x24", "-nolisten", "tcp", "-noreset"]

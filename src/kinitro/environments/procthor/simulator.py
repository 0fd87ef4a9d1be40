"""AI2-THOR's Controller as a child process that can always be ended: every call has a deadline, every fault a name."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinitro.environments.procthor import channel
from kinitro.environments.procthor.launch import PlayerLaunch, display_command
from kinitro.errors import EnvironmentFault

# Any in this file: AI2-THOR's metadata and actions.

_PASSED_ON: Final = (
    "PATH",
    "PYTHONPATH",
    "LANG",
    "DISPLAY",
    "XAUTHORITY",
    "LD_LIBRARY_PATH",
    "VK_ICD_FILENAMES",
    "TMPDIR",
)
"""What the Controller and its player get of our environment. Not CUDA_VISIBLE_DEVICES: the Controller then looks for a
Vulkan device by nvidia-smi."""
_LOG_BYTES: Final = 1500


@dataclass(frozen=True)
class View:
    """What the agent's camera draws. `headless` draws nothing."""

    size_px: int
    field_of_view_deg: float
    headless: bool = False
    depth: bool = False

    def arguments(self, initialization: Mapping[str, Any]) -> dict[str, Any]:
        """The Controller's own names for it, with more that goes to AI2-THOR's Initialize."""
        return {
            "width": self.size_px,
            "height": self.size_px,
            "headless": self.headless,
            "fieldOfView": self.field_of_view_deg,
            "renderDepthImage": self.depth and not self.headless,
            "renderInstanceSegmentation": False,
            **initialization,
        }


@dataclass(frozen=True)
class Frame:
    """What one call came to: AI2-THOR's metadata, and the pictures when there are any."""

    metadata: Mapping[str, Any]
    rgb: NDArray[np.uint8] | None = None
    depth: NDArray[np.float32] | None = None

    @property
    def ok(self) -> bool:
        """Whether the action succeeded."""
        return bool(self.metadata["lastActionSuccess"])


class Simulator:
    """One Controller with its player. After any fault it is closed, and its processes are gone."""

    def __init__(self, launch: PlayerLaunch, view: View, initialization: Mapping[str, Any]) -> None:
        """Starts it. Raises `EnvironmentFault`, or `ConfigurationError` without a display.

        The codes of every fault here: `player_exited`, `player_silent` (a deadline passed), `player_broken` (the
        Controller failed), `player_refused` (a call of ours was not obeyed) and `stand_in`.
        """
        self._launch = launch
        self._closed = False
        needs_display = launch.needs_display and not view.headless
        if needs_display:
            display_command(os.environ)
        self._scratch = Path(tempfile.mkdtemp(prefix="kinitro-thor-"))
        ours, theirs = socket.socketpair()
        self._socket = ours
        settings = asdict(launch) | {
            "socket": theirs.fileno(),
            "scratch": str(self._scratch),
            "needs_display": needs_display,
            "view": view.arguments(initialization),
        }
        with theirs, (self._scratch / "controller.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kinitro.environments.procthor.controller", json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                env=self._environment(),
                start_new_session=True,
            )
        first = self._receive(launch.start_timeout_s, "start")
        self.player_id = int(first.metadata["playerId"])
        """The player's process id."""
        if bool(first.metadata.get("standIn")) and not launch.stand_in:
            self.close()
            raise EnvironmentFault(
                "The player says that it is a stand-in for AI2-THOR: nothing is scored on it.", code="stand_in"
            )

    @property
    def process_id(self) -> int:
        """Of the process that holds the Controller; it leads the process group of all that it started."""
        return self._process.pid

    def reset(self, house: Mapping[str, Any]) -> Frame:
        """Loads a house. Raises `EnvironmentFault`, also when AI2-THOR refuses the house."""
        return self._checked(self._call({"house": dict(house)}, "CreateHouse"))

    def step(self, action: str, **arguments: Any) -> Frame:
        """One action of the policy's: whether it succeeded is in the frame."""
        return self._call({"action": {"action": action, **arguments}}, action)

    def must(self, action: str, **arguments: Any) -> Frame:
        """One action of ours, which must succeed. Raises `EnvironmentFault` (`player_refused`) when it does not."""
        return self._checked(self.step(action, **arguments))

    def close(self) -> None:
        """Ends the Controller, its player and its display. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self._launch.stop_timeout_s)
        with suppress(ProcessLookupError):
            # What the Controller's process could not end itself, or left in its group.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        """A home of its own: the Controller and Unity keep locks, logs and preferences there."""
        return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"HOME": str(self._scratch)}

    def _checked(self, frame: Frame) -> Frame:
        if not frame.ok:
            raise self._fault(
                "player_refused",
                f"AI2-THOR refuses {frame.metadata.get('lastAction')}: {frame.metadata.get('errorMessage')}",
            )
        return frame

    def _call(self, request: dict[str, Any], name: str) -> Frame:
        self._socket.settimeout(self._launch.step_timeout_s)
        try:
            channel.send(self._socket, request)
        except OSError as error:
            raise self._fault("player_exited", f"AI2-THOR's player is gone before {name}") from error
        return self._receive(self._launch.step_timeout_s, name)

    def _receive(self, timeout_s: float, name: str) -> Frame:
        began = time.monotonic()
        self._socket.settimeout(timeout_s)
        try:
            answer = channel.receive(self._socket)
        except TimeoutError as error:
            raise self._fault(
                "player_silent", f"AI2-THOR's player did not answer {name} within {timeout_s:g} s"
            ) from error
        except OSError as error:
            raise self._fault("player_exited", f"AI2-THOR's player is gone during {name}: {error}") from error
        if answer is None:
            waited_s = time.monotonic() - began
            raise self._fault("player_exited", f"AI2-THOR's player exited during {name}, after {waited_s:.1f} s")
        if "fault" in answer:
            code = "player_refused" if answer.get("refused") else "player_broken"
            raise self._fault(code, f"AI2-THOR's Controller failed in {name}: {answer['fault']}")
        return _frame(answer)

    def _fault(self, code: str, problem: str) -> EnvironmentFault:
        """The fault, with the player's last words; everything is ended first."""
        words = self._last_words()
        self.close()
        said = f" Its last output:\n{words}\n" if words else ""
        return EnvironmentFault(f"{problem}.{said}", code=code, advice="Run `kinitro env test procthor/v0`.")

    def _last_words(self) -> str:
        logs = [self._scratch / "controller.log", *sorted(self._scratch.glob(".ai2thor/log/*.log"))]
        texts = [log.read_bytes()[-_LOG_BYTES:].decode(errors="replace") for log in logs if log.is_file()]
        return "\n".join(text.strip() for text in texts if text.strip())


def _frame(answer: Mapping[str, Any]) -> Frame:
    if "rgb" not in answer:
        return Frame(answer["metadata"])
    height, width = answer["size"]
    rgb = np.frombuffer(answer["rgb"], dtype=np.uint8).reshape(height, width, 3)
    if "depth" not in answer:
        return Frame(answer["metadata"], rgb)
    return Frame(answer["metadata"], rgb, np.frombuffer(answer["depth"], dtype="<f4").reshape(height, width))

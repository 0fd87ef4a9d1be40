"""The process that holds AI2-THOR's Controller: `python -m kinitro.environments.procthor.controller`.

The Controller can block for ever, spin a core or restart its player when that one dies (docs/procthor.md). So it lives
in a process of its own, with a watchdog thread that ends everything, player first, as soon as the player has exited or
our parent asks for it, or is gone.

Standard input is the lifeline: its end means "stop". Requests and answers are framed msgpack on the socket whose
number is given.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Any, Final, NoReturn

from ai2thor.controller import Controller
from ai2thor.fifo_server import FifoServer
from ai2thor.wsgi_server import WsgiServer

from kinitro.environments.procthor import channel
from kinitro.environments.procthor.launch import display_command

# Any in this file: AI2-THOR's events and actions.

STOPPED: Final = 0
PLAYER_EXITED: Final = 70
_POLL_S: Final = 0.1
_KEPT: Final = (
    "agent",
    "objects",
    "cameraPosition",
    "fov",
    "lastAction",
    "lastActionSuccess",
    "errorMessage",
    "actionReturn",
    "sceneName",
    "standIn",
)
"""What of an event's metadata our parent uses."""


@dataclass
class Watchdog:
    """Ends this process, and what it started, from a thread of its own.

    `scratch` is the folder that our parent made for it, and removes; we do when the parent is gone.
    """

    scratch: Path
    display: "subprocess.Popen[bytes] | None" = None
    player: "subprocess.Popen[bytes] | None" = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Looks several times a second until there is a reason to end."""
        while True:
            asked, _, _ = select.select([sys.stdin.fileno()], [], [], _POLL_S)
            if asked:
                self.end(STOPPED, forget=True)
            if self.player is not None and self.player.poll() is not None:
                sys.stderr.write(f"AI2-THOR's player exited with code {self.player.returncode}.\n")
                sys.stderr.flush()
                self.end(PLAYER_EXITED)

    def end(self, code: int, *, forget: bool = False) -> NoReturn:
        """Kills and reaps player and display, then exits. May be called by any thread."""
        with self._lock:
            for process, polite in ((self.player, False), (self.display, True)):
                if process is not None and process.poll() is None:
                    process.send_signal(signal.SIGTERM if polite else signal.SIGKILL)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(1.0)
                    process.kill()
                    process.wait()
            if forget:
                shutil.rmtree(self.scratch, ignore_errors=True)
            os._exit(code)


class WatchedController(Controller):  # type: ignore[misc] # ai2thor has no types
    """AI2-THOR's Controller, which tells the watchdog of its player before it waits for that one."""

    def __init__(self, watchdog: Watchdog, **arguments: Any) -> None:
        self._watchdog = watchdog
        super().__init__(**arguments)

    def _start_unity_thread(self, *arguments: Any) -> None:
        super()._start_unity_thread(*arguments)
        self._watchdog.player = self.server.unity_proc


def main() -> None:
    """Serves requests until told to stop."""
    settings = json.loads(sys.argv[1])
    with socket(fileno=settings["socket"]) as connection:
        watchdog = Watchdog(Path(settings["scratch"]))
        if settings["needs_display"]:
            watchdog.display = _start_display()
        threading.Thread(target=watchdog.run, daemon=True).start()
        try:
            _serve(connection, WatchedController(watchdog, **_arguments(settings)))
        except Exception as error:  # noqa: BLE001 - the outermost turn of this process; the parent tells whose fault it is
            traceback.print_exc()
            channel.send(connection, {"fault": f"{type(error).__name__}: {error}"})
            watchdog.end(STOPPED)
        # Our parent has hung up: killed, maybe, before the watchdog saw it.
        watchdog.end(STOPPED, forget=True)


def _arguments(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "local_executable_path": settings["command"],
        "server_class": {"fifo": FifoServer, "wsgi": WsgiServer}[settings["server"]],
        "scene": "Procedural",
        "x_display": os.environ.get("DISPLAY", ":none"),
        # Our parent's own deadlines are shorter and decide; these bound what the Controller does on its own.
        "server_timeout": settings["step_timeout_s"] + 10.0,
        "server_start_timeout": settings["start_timeout_s"] + 10.0,
        **settings["view"],
    }


def _start_display() -> "subprocess.Popen[bytes] | None":
    """An X server of our own where there is none; its number goes into DISPLAY."""
    command = display_command(os.environ)
    if command is None:
        return None
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [part.format(fd=writer) for part in command], pass_fds=(writer,), stdin=subprocess.DEVNULL
    )
    os.close(writer)
    with os.fdopen(reader) as told:
        os.environ["DISPLAY"] = f":{told.readline().strip()}"
    return process


def _serve(connection: socket, controller: Controller) -> None:
    first = _answer(controller.last_event)
    first["metadata"]["playerId"] = controller.unity_pid
    channel.send(connection, first)
    while (request := channel.receive(connection)) is not None:
        try:
            event = controller.reset(request["house"]) if "house" in request else controller.step(request["action"])
        except ValueError as error:
            # The Controller's way to say that an action or argument does not exist.
            channel.send(connection, {"fault": str(error), "refused": True})
        else:
            channel.send(connection, _answer(event))


def _answer(event: Any) -> dict[str, Any]:
    metadata = {name: event.metadata[name] for name in _KEPT if name in event.metadata}
    answer: dict[str, Any] = {"metadata": metadata}
    if event.frame is not None:
        answer |= {"rgb": event.frame.tobytes(), "size": list(event.frame.shape[:2])}
    if event.depth_frame is not None:
        answer["depth"] = event.depth_frame.astype("<f4").tobytes()
    return answer


if __name__ == "__main__":
    main()

"""The stand-in player: `python -m kinitro.testing.procthor.player`, started by AI2-THOR's Controller as Unity would be.

It speaks the FIFO or the WSGI protocol, as the Controller says in the environment. Every line it logs begins with
"STAND-IN".
"""

import http.client
import json
import os
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import msgpack

from kinitro.testing.procthor import events
from kinitro.testing.procthor.boxes import Thing
from kinitro.testing.procthor.table import objection
from kinitro.testing.procthor.world import RefusedError, World

# Any in this file: actions and metadata, as JSON.

_METADATA, _ACTION, _RGB, _DEPTH, _END = 1, 2, 4, 5, 255
_HEADER = struct.Struct("!BI")
_BOUNDARY = "standin-boundary"


@dataclass
class Player:
    """The world, the picture's size, and what the last action came to."""

    world: World = field(default_factory=World)
    width: int = 300
    height: int = 300
    depth: bool = False
    headless: bool = False
    said: dict[str, Any] = field(
        default_factory=lambda: {
            "lastAction": "Start", "lastActionSuccess": True, "errorMessage": "", "errorCode": "", "actionReturn": None,
        }
    )  # fmt: skip

    def act(self, action: Mapping[str, Any]) -> None:
        """Does it; what it came to is in the next event."""
        name = str(action.get("action"))
        wrong = objection(action)
        code, message, returned = *(wrong or ("", "")), None
        if wrong is None:
            try:
                returned = self._do(name, action)
            except RefusedError as error:
                message = str(error)
        succeeded = not message
        self.said = {
            "lastAction": name,
            "lastActionSuccess": succeeded,
            "errorMessage": message,
            "errorCode": code,
            "actionReturn": returned,
        }
        log(f"{name}: {'done' if succeeded else message}")

    def event(self, sequence_id: int) -> tuple[dict[str, Any], bytes | None, bytes | None]:
        """Metadata, and colour and depth as AI2-THOR sends them: the bottom row first."""
        agent = events.agent_metadata(self.world, self.width, self.height, **self.said)
        metadata = {"agents": [agent], "thirdPartyCameras": [], "activeAgentId": 0, "sequenceId": sequence_id}
        if self.headless:
            return metadata, None, None
        colour, depth = events.draw(self.world, self.width, self.height)
        return metadata, colour[::-1].tobytes(), depth[::-1].astype("<f4").tobytes() if self.depth else None

    def _do(self, name: str, action: Mapping[str, Any]) -> Any:
        world = self.world
        step = float(action.get("moveMagnitude", 0.25))
        turn = float(action.get("degrees", 30.0))
        deeds: dict[str, Callable[[], Any]] = {
            "Reset": self._reset,
            "Initialize": lambda: self._initialize(action),
            "GetScenesInBuild": lambda: ["Procedural"],
            "ChangeResolution": lambda: self._resize(action),
            "CreateHouse": lambda: world.load(action["house"]),
            "TeleportFull": lambda: world.teleport(
                action["position"], float(action["rotation"]["y"]), float(action["horizon"])
            ),
            "Pass": lambda: None,
            "MoveAhead": lambda: world.move(step, 0.0),
            "MoveBack": lambda: world.move(-step, 0.0),
            "MoveLeft": lambda: world.move(0.0, -step),
            "MoveRight": lambda: world.move(0.0, step),
            "RotateLeft": lambda: world.rotate(-turn),
            "RotateRight": lambda: world.rotate(turn),
            "LookUp": lambda: world.look(-turn),
            "LookDown": lambda: world.look(turn),
            "PickupObject": lambda: world.pick_up(self._target(action)),
            "PutObject": lambda: world.put(self._target(action)),
            "OpenObject": lambda: world.set_open(self._target(action), opened=True),
            "CloseObject": lambda: world.set_open(self._target(action), opened=False),
            "ToggleObjectOn": lambda: world.set_on(self._target(action), on=True),
            "ToggleObjectOff": lambda: world.set_on(self._target(action), on=False),
            "MoveHeldObject": lambda: world.move_hand(
                action.get("right", 0.0), action.get("up", 0.0), action.get("ahead", 0.0)
            ),
            "RotateHeldObject": lambda: world.turn_hand(
                action.get("pitch", 0.0), action.get("yaw", 0.0), action.get("roll", 0.0)
            ),
        }
        return deeds[name]()

    def _reset(self) -> None:
        self.world = World(fov=self.world.fov, reach_m=self.world.reach_m)

    def _initialize(self, action: Mapping[str, Any]) -> dict[str, float]:
        self.world.fov = float(action.get("fieldOfView", 90.0))
        self.world.reach_m = float(action.get("visibilityDistance", 1.5))
        self.depth = bool(action.get("renderDepthImage", False))
        return {"cameraNearPlane": 0.1, "cameraFarPlane": 20.0}

    def _resize(self, action: Mapping[str, Any]) -> None:
        self.width, self.height = int(action["x"]), int(action["y"])

    def _target(self, action: Mapping[str, Any]) -> Thing:
        if "objectId" not in action:
            return self.world.at_pixel(float(action["x"]), float(action["y"]))
        thing = self.world.things.get(action["objectId"])
        if thing is None:
            raise RefusedError(f"There is no {action['objectId']}.")
        if not action.get("forceAction") and thing.id not in self.world.visible():
            raise RefusedError(f"{thing.id} is not visible.")
        return thing


def log(text: str) -> None:
    """To the Controller's log of its player."""
    sys.stdout.write(f"STAND-IN for AI2-THOR, nothing here is evidence about it: {text}\n")
    sys.stdout.flush()


# The two protocols


def serve_fifo(player: Player, server_path: str, client_path: str) -> None:
    """Fields of type, length and body, ended by an empty field 255. We speak first, before we open the way back."""
    with open(server_path, "wb") as out:  # noqa: PTH123 - a pipe
        _write(out, player.event(0))
        with open(client_path, "rb") as back:  # noqa: PTH123 - a pipe
            while (action := _read(back)) is not None:
                player.act(action)
                _write(out, player.event(int(action["sequenceId"])))


def _write(out: BinaryIO, event: tuple[dict[str, Any], bytes | None, bytes | None]) -> None:
    metadata, colour, depth = event
    fields = [(_METADATA, msgpack.packb(metadata)), (_RGB, colour), (_DEPTH, depth), (_END, b"")]
    out.write(b"".join(_HEADER.pack(kind, len(body)) + body for kind, body in fields if body is not None))
    out.flush()


def _read(back: BinaryIO) -> dict[str, Any] | None:
    body = b""
    while header := back.read(_HEADER.size):
        kind, length = _HEADER.unpack(header)
        if kind == _END:
            action: dict[str, Any] = json.loads(body)
            return action
        body = back.read(length)
    return None


def serve_wsgi(player: Player, host: str, port: int, token: str) -> None:
    """Each event is a form posted to /train; the answer is the next action, an empty one means the end."""
    connection = http.client.HTTPConnection(host, port)
    sequence_id = 0
    while True:
        connection.request(
            "POST", "/train", _form(player.event(sequence_id), token),
            {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"},
        )  # fmt: skip
        reply = connection.getresponse()
        body = reply.read()
        if reply.status != http.HTTPStatus.OK:
            raise SystemExit(f"STAND-IN: the Controller answers {reply.status}")
        action = json.loads(body)
        if "action" not in action:
            return
        player.act(action)
        sequence_id = int(action["sequenceId"])


def _form(event: tuple[dict[str, Any], bytes | None, bytes | None], token: str) -> bytes:
    metadata, colour, depth = event
    parts = [
        _part('name="metadata"', "text/plain; charset=utf-8", json.dumps(metadata).encode()),
        _part('name="token"', "text/plain; charset=utf-8", token.encode()),
    ]
    parts += [
        _part(f'name="{name}"; filename="{name}"', "image/raw-rgb", image)
        for name, image in (("image", colour), ("image_depth", depth))
        if image is not None
    ]
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()


def _part(disposition: str, content_type: str, body: bytes) -> bytes:
    head = f"--{_BOUNDARY}\r\nContent-Type: {content_type}\r\nContent-disposition: form-data; {disposition}\r\n\r\n"
    return head.encode() + body + b"\r\n"


def main() -> None:
    """Plays until the Controller is gone."""
    log("started")
    player = Player(headless="-nographics" in sys.argv)
    variable = os.environ
    if variable["AI2THOR_SERVER_TYPE"] == "FIFO":
        serve_fifo(player, variable["AI2THOR_FIFO_SERVER_PIPE_PATH"], variable["AI2THOR_FIFO_CLIENT_PIPE_PATH"])
    else:
        serve_wsgi(player, variable["AI2THOR_HOST"], int(variable["AI2THOR_PORT"]), variable["AI2THOR_CLIENT_TOKEN"])


if __name__ == "__main__":
    main()

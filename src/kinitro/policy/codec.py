"""Bytes of the policy protocol, both formats. What a policy sends is hostile until it has passed through here."""

import base64
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

import msgpack
import numpy as np
from numpy.typing import NDArray

from kinitro.errors import PolicyError
from kinitro.policy.messages import Action, Observation, PolicyHealth, TaskConfig

# Any in this file: a document as a parser gives it, before it has been checked.

MAX_REPLY_BYTES = 1024 * 1024
MAX_DEPTH = 16
MAX_VALUES = 10_000
"""Largest number of values in one reply. The largest real action has a few dozen."""
MAX_TEXT = 200
BOUNDS: Mapping[str, tuple[float, float]] = {"ee_twist": (-1.0, 1.0), "gripper": (0.0, 1.0), "aim": (0.0, 1.0)}
"""Channels with a fixed range. Values outside are clipped to it, as the simulators themselves do."""


class WireFormat(StrEnum):
    """How a body is written. The same structure in both; images are base64 in JSON and raw bytes in msgpack."""

    JSON = "json"
    MSGPACK = "msgpack"

    @property
    def content_type(self) -> str:
        """The HTTP media type."""
        return f"application/{self.value}"

    @classmethod
    def of(cls, content_type: str) -> "WireFormat":
        """The format that a `Content-Type` header names; JSON unless it is msgpack's."""
        return (
            cls.MSGPACK
            if content_type.split(";", maxsplit=1)[0].strip().lower() == cls.MSGPACK.content_type
            else cls.JSON
        )


@dataclass(frozen=True)
class ActionSpace:
    """The channels an environment takes: continuous ones with their lengths, discrete ones with their counts."""

    continuous: Mapping[str, int]
    discrete: Mapping[str, int] = field(default_factory=dict)


# What we send


def encode_act(observation: Observation, episode_id: str, wire: WireFormat) -> bytes:
    """The body of `POST /act`."""
    return _encode({"episode_id": episode_id, "obs": _observation_document(observation, wire)}, wire)


def encode_reset(task: TaskConfig, wire: WireFormat) -> bytes:
    """The body of `POST /reset`."""
    config = {
        "env_id": task.env_id,
        "env_name": task.env_name,
        "task_name": task.task_name,
        "seed": task.seed,
        "task_id": task.task_id,
    }
    return _encode({"task_config": config}, wire)


def _encode(document: Mapping[str, Any], wire: WireFormat) -> bytes:
    if wire is WireFormat.MSGPACK:
        packed: bytes = msgpack.packb(document)
        return packed
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def _observation_document(observation: Observation, wire: WireFormat) -> dict[str, Any]:
    return {
        "rgb": {camera: _image_document(image, wire) for camera, image in observation.rgb.items()},
        "depth": {camera: _image_document(image, wire) for camera, image in observation.depth.items()},
        "proprio": {channel: values.tolist() for channel, values in observation.proprio.items()},
        "cam_intrinsics": {camera: matrix.tolist() for camera, matrix in observation.cam_intrinsics.items()},
        "cam_extrinsics": {camera: matrix.tolist() for camera, matrix in observation.cam_extrinsics.items()},
        "extra": dict(observation.extra),
    }


def _image_document(image: NDArray[Any], wire: WireFormat) -> dict[str, Any]:
    data = image.tobytes()
    return {
        "data": data if wire is WireFormat.MSGPACK else base64.b64encode(data).decode("ascii"),
        "shape": list(image.shape),
        "dtype": image.dtype.name,
    }


# What a policy sends


def decode_health(body: bytes, wire: WireFormat) -> PolicyHealth:
    """Reads the answer of `GET /health`, with the contract's defaults for fields left out.

    Raises:
        PolicyError: `malformed_reply` (the field is named), `oversized_reply`, or `unhealthy`.
    """
    document = _parse(body, wire, "/health")
    if document.get("status") != "healthy":
        raise PolicyError(
            f"The policy's /health says status {_shown(document.get('status'))}, not 'healthy'.", code="unhealthy"
        )
    formats = document.get("formats", ["json"])
    if not isinstance(formats, list) or not all(isinstance(name, str) for name in formats):
        _malformed("The policy's /health has a field 'formats' that is not a list of names.")
    return PolicyHealth(
        model_loaded=_flag(document, "model_loaded", default=False),
        uptime_s=_uptime(document),
        max_concurrent_episodes=_episodes(document),
        formats=tuple(formats),
        needs_images=_flag(document, "needs_images", default=True),
        needs_depth=_flag(document, "needs_depth", default=False),
    )


def decode_reset(body: bytes, wire: WireFormat) -> str:
    """Reads the answer of `POST /reset`: the policy's own id for the episode.

    Raises:
        PolicyError: `malformed_reply` or `oversized_reply`.
    """
    document = _parse(body, wire, "/reset")
    if document.get("status") != "ok":
        _malformed(f"The policy's /reset says status {_shown(document.get('status'))}, not 'ok'.")
    episode_id = document.get("episode_id")
    if not isinstance(episode_id, str) or not 1 <= len(episode_id) <= MAX_TEXT or not _is_unicode(episode_id):
        _malformed(f"The policy's /reset has no 'episode_id': it must be a text of 1 to {MAX_TEXT} characters.")
    return episode_id


def decode_action(body: bytes, wire: WireFormat, space: ActionSpace) -> Action:
    """Reads the answer of `POST /act` as an action of this space.

    Values of `ee_twist` and `gripper` outside their range are clipped (`BOUNDS`). A missing channel stays missing.
    `extra` may hold anything small; it is checked and not kept.

    Raises:
        PolicyError: `malformed_reply` when the body is no document with an action, `malformed_action` when a channel
            is unknown here or has a wrong length, type or value (the channel is named), `oversized_reply`.
    """
    action = _table(_parse(body, wire, "/act"), "action", required=True)
    _table(action, "extra")
    continuous = _table(action, "continuous")
    discrete = _table(action, "discrete")
    return Action(
        continuous={name: _continuous(name, value, space) for name, value in continuous.items()},
        discrete={name: _discrete(name, value, space) for name, value in discrete.items()},
    )


def _continuous(name: str, value: Any, space: ActionSpace) -> NDArray[np.float64]:
    length = space.continuous.get(name)
    if length is None:
        _unknown_channel(name, "continuous", space.continuous)
    if not isinstance(value, list) or len(value) != length:
        size = f"{len(value)} values" if isinstance(value, list) else f"a {type(value).__name__}"
        _malformed_action(f"channel '{name}' has {size}; it takes a list of {length} numbers")
    low, high = BOUNDS.get(name, (-math.inf, math.inf))
    return np.array([min(max(_number(name, item), low), high) for item in value], dtype=np.float64)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _malformed_action(f"channel '{name}' holds {_shown(value)}, which is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _malformed_action(f"channel '{name}' holds a value that is not finite")
    return number


def _discrete(name: str, value: Any, space: ActionSpace) -> int:
    count = space.discrete.get(name)
    if count is None:
        _unknown_channel(name, "discrete", space.discrete)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        _malformed_action(f"channel '{name}' holds {_shown(value)}; it takes one integer from 0 to {count - 1}")
    return value


def _unknown_channel(name: str, kind: str, known: Iterable[str]) -> NoReturn:
    _malformed_action(
        f"{kind} channel {_shown(name)} is not one of this environment's ({', '.join(sorted(known)) or 'it has none'})"
    )


def _malformed_action(problem: str) -> NoReturn:
    raise PolicyError(
        f"The policy's action is not valid: {problem}.",
        code="malformed_action",
        advice="docs/protocol.md lists the channels.",
    )


def _malformed(message: str) -> NoReturn:
    raise PolicyError(message, code="malformed_reply", advice="docs/protocol.md shows each reply.")


def oversized(path: str) -> PolicyError:
    """The error of a reply over `MAX_REPLY_BYTES`."""
    return PolicyError(f"The policy's reply to {path} is larger than {MAX_REPLY_BYTES} bytes.", code="oversized_reply")


# Documents


def _parse(body: bytes, wire: WireFormat, path: str) -> dict[str, Any]:
    if len(body) > MAX_REPLY_BYTES:
        raise oversized(path)
    parser: Callable[[bytes], Any] = _from_msgpack if wire is WireFormat.MSGPACK else _from_json
    try:
        document = parser(body)
    # The parsers' own ways to refuse bytes: bad syntax and text, too deep, numbers too large, keys of odd types.
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        _malformed(f"The policy's reply to {path} is not valid {wire.value}: {str(error)[:MAX_TEXT]}.")
    if not isinstance(document, dict):
        _malformed(f"The policy's reply to {path} is {_shown(document)}, not an object.")
    _check_tree(document, path)
    return document


def _from_json(body: bytes) -> Any:
    # Decoded here because json.loads would also accept UTF-16 and UTF-32.
    # NaN and Infinity, which Python's own servers write, pass here so that the channel that holds them can be named.
    return json.loads(body.decode("utf-8"), object_pairs_hook=_unique)


def _from_msgpack(body: bytes) -> Any:
    return msgpack.unpackb(body, raw=False, ext_hook=_refuse_extension, object_pairs_hook=_unique)


def _unique(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise ValueError(f"a key is a {type(key).__name__}, not text")  # noqa: TRY004 (one error for all bad bytes)
        if key in document:
            raise ValueError(f"the key {_shown(key)} appears twice")
        document[key] = value
    return document


def _refuse_extension(code: int, _data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code} is not used in this protocol")


def _check_tree(document: Any, path: str) -> None:
    # Level by level rather than by recursion: the depth is the sender's choice.
    level, count = [document], 0
    for _depth in range(MAX_DEPTH):
        count += len(level)
        if count > MAX_VALUES:
            _malformed(f"The policy's reply to {path} holds more than {MAX_VALUES} values.")
        level = [child for value in level for child in _children(value, path)]
        if not level:
            return
    _malformed(f"The policy's reply to {path} is nested deeper than {MAX_DEPTH} levels.")


def _children(value: Any, path: str) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list):
        return value
    if value is None or isinstance(value, str | int | float):
        return ()
    _malformed(f"The policy's reply to {path} holds a {type(value).__name__}, which this protocol does not use.")


def _table(document: Mapping[str, Any], name: str, *, required: bool = False) -> dict[str, Any]:
    value = document.get(name)
    if value is None and not required:
        return {}
    if not isinstance(value, dict):
        _malformed(f"The policy's reply to /act has {_shown(value)} as '{name}'; it must be an object.")
    return value


def _flag(document: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = document.get(name, default)
    if not isinstance(value, bool):
        _malformed(f"The policy's /health has {_shown(value)} as '{name}'; it must be true or false.")
    return value


def _uptime(document: Mapping[str, Any]) -> float:
    value = document.get("uptime_seconds", 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        _malformed(f"The policy's /health has {_shown(value)} as 'uptime_seconds'; it must be a number of seconds.")
    return float(value)


def _episodes(document: Mapping[str, Any]) -> int:
    value = document.get("max_concurrent_episodes", 1)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        _malformed(
            f"The policy's /health has {_shown(value)} as 'max_concurrent_episodes'; it must be from 1 to 10000."
        )
    return value


def _shown(value: Any) -> str:
    """A short form of an untrusted value that is safe in a log line and cheap however large the value is."""
    if isinstance(value, str):
        return ascii(value[:60])
    if value is None or isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else "a very large integer"
    return f"a {type(value).__name__}"


def _is_unicode(text: str) -> bool:
    """False for lone surrogates, which JSON can spell and UTF-8 cannot carry."""
    return not any("\ud800" <= character <= "\udfff" for character in text)

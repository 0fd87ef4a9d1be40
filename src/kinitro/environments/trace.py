"""What happened in an episode, step by step: the digest that two runs are compared by, and a compact form to keep.

The compact form says what the digest can't: at which step two runs part, and whether the policy saw something else,
did something else, or the simulator answered something else. It comes back from disks and strangers, so reading it is
bounded and checked.
"""

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from kinitro.environments.base import Step
from kinitro.errors import KinitroError
from kinitro.policy.messages import Action, Observation

T = TypeVar("T")
Vector = NDArray[np.float64]

_SEEN_BYTES: Final = 8
_STATE_BYTES: Final = 32
_MOST_STEPS: Final = 100_000
_MOST_BYTES: Final = 8 * 2**20
"""Inflated. At most 256 KiB of the compact form are kept; 184 KiB (2000 random steps of ProcTHOR) inflate to 209."""
_MOST_CHANNELS: Final = 64
_LONGEST_CHANNEL: Final = 1024
_LONGEST_NAME: Final = 256
_INT64: Final = range(-(2**63), 2**63)


class DamagedSteps(KinitroError):
    """Recorded steps that can't be read."""


@dataclass(frozen=True)
class Steps:
    """An episode's steps, up to where it ended. Row i of each array belongs to step i.

    `continuous` has NaN, and `discrete` None, where a channel got no command; `seen` is a digest of the observation
    that the policy acted on; `state_sha256` is that of the simulator's final state.
    """

    continuous: Mapping[str, Vector]
    discrete: Mapping[str, tuple[int | None, ...]]
    rewards: Vector
    successes: NDArray[np.bool_]
    seen: tuple[bytes, ...]
    state_sha256: bytes

    def __len__(self) -> int:
        return len(self.rewards)

    def action(self, step: int) -> Action:
        """The action as it was applied."""
        continuous = {name: rows[step] for name, rows in self.continuous.items() if not np.isnan(rows[step]).all()}
        discrete = {name: value for name, rows in self.discrete.items() if (value := rows[step]) is not None}
        return Action(continuous, discrete)

    def digest(self) -> str:
        """SHA-256 over the actions as applied, the rewards and the final state: `trace_digest`."""
        total = hashlib.sha256(b"kinitro-trace-2\0")
        for step in range(len(self)):
            action = self.action(step)
            for name, values in sorted(action.continuous.items()):
                total.update(_channel(b"c", name, values.astype("<f8").tobytes()))
            for name, value in sorted(action.discrete.items()):
                total.update(_channel(b"d", name, struct.pack("<q", value)))
            total.update(b"r" + struct.pack("<d?", self.rewards[step], self.successes[step]))
        total.update(b"s" + self.state_sha256)
        return total.hexdigest()

    def encode(self) -> bytes:
        """The compact form; empty when it would be larger than `decode` takes."""
        packed: bytes = msgpack.packb(
            {
                "format": 1,
                "steps": len(self),
                "continuous": {name: [rows.shape[1], _shuffled(rows)] for name, rows in self.continuous.items()},
                "discrete": {name: list(rows) for name, rows in self.discrete.items()},
                "rewards": _shuffled(self.rewards),
                "successes": self.successes.astype(np.uint8).tobytes(),
                "seen": b"".join(self.seen),
                "state_sha256": self.state_sha256,
            }
        )
        return zlib.compress(packed, 9) if len(packed) <= _MOST_BYTES else b""

    @classmethod
    def decode(cls, data: bytes) -> "Steps":
        """Reads the compact form. Raises `DamagedSteps` for anything else."""
        packed = _unpacked(data)
        count = packed.steps
        sizes = {len(packed.rewards): 8, len(packed.seen): _SEEN_BYTES, len(packed.successes): 1}
        if any(length != count * size for length, size in sizes.items()):
            raise DamagedSteps("The recorded steps can't be read: their parts differ in length.")
        if any(len(rows) != count for rows in packed.discrete.values()):
            raise DamagedSteps("The recorded steps can't be read: a discrete channel differs in length.")
        seen = packed.seen
        return cls(
            continuous={name: _unshuffled(rows, (count, width)) for name, (width, rows) in packed.continuous.items()},
            discrete={name: tuple(rows) for name, rows in packed.discrete.items()},
            rewards=_unshuffled(packed.rewards, (count,)),
            successes=np.frombuffer(packed.successes, np.uint8).astype(np.bool_),
            seen=tuple(seen[start : start + _SEEN_BYTES] for start in range(0, len(seen), _SEEN_BYTES)),
            state_sha256=packed.state_sha256,
        )


@dataclass
class Trace:
    """Gathers an episode's steps while it runs."""

    _actions: list[Action] = field(default_factory=list)
    _outcomes: list[tuple[float, bool]] = field(default_factory=list)
    _seen: list[bytes] = field(default_factory=list)

    def add(self, observation: Observation, action: Action, step: Step) -> None:
        """One step: what the policy saw, what it did, and what came of it."""
        self._seen.append(sight_digest(observation))
        self._actions.append(action)
        self._outcomes.append((step.reward, step.success))

    def close(self, state: bytes) -> Steps:
        """All steps so far, with the simulator's state after them."""
        return Steps(
            continuous=self._continuous(),
            discrete=self._discrete(),
            rewards=np.array([reward for reward, _ in self._outcomes], np.float64),
            successes=np.array([success for _, success in self._outcomes], np.bool_),
            seen=tuple(self._seen),
            state_sha256=hashlib.sha256(state).digest(),
        )

    def _continuous(self) -> dict[str, Vector]:
        widths = {name: len(values) for action in self._actions for name, values in action.continuous.items()}
        found = {name: np.full((len(self._actions), width), np.nan) for name, width in sorted(widths.items())}
        for index, action in enumerate(self._actions):
            for name, values in action.continuous.items():
                found[name][index] = values
        return found

    def _discrete(self) -> dict[str, tuple[int | None, ...]]:
        names = sorted({name for action in self._actions for name in action.discrete})
        return {name: tuple(action.discrete.get(name) for action in self._actions) for name in names}


def sight_digest(observation: Observation) -> bytes:
    """Eight bytes that differ when anything in an observation does. Quick, and no proof against forgery."""
    total = hashlib.blake2b(digest_size=_SEEN_BYTES)
    arrays = (observation.proprio, observation.rgb, observation.depth)
    for kind in (*arrays, observation.cam_intrinsics, observation.cam_extrinsics):
        for name, values in sorted(kind.items()):
            total.update(name.encode() + b"\0" + np.ascontiguousarray(values).tobytes())
    return total.digest()


def _channel(kind: bytes, name: str, payload: bytes) -> bytes:
    label = name.encode()
    return kind + struct.pack("<II", len(label), len(payload)) + label + payload


def _shuffled(values: Vector) -> bytes:
    """Little-endian doubles, all their first bytes, then all their second ones, and so on: that compresses better."""
    return values.astype("<f8").view(np.uint8).reshape(-1, 8).T.tobytes() if values.size else b""


def _unshuffled(data: bytes, shape: tuple[int, ...]) -> Vector:
    size = int(np.prod(shape, dtype=np.int64))
    if len(data) != 8 * size:
        raise DamagedSteps("The recorded steps can't be read: a channel differs in length.")
    if not size:
        return np.zeros(shape)
    return np.frombuffer(data, np.uint8).reshape(8, size).T.copy().view("<f8").reshape(shape).astype(np.float64)


class _Packed(BaseModel):
    """The compact form after msgpack."""

    format: int = Field(ge=1, le=1)
    steps: int = Field(ge=0, le=_MOST_STEPS)
    continuous: dict[str, tuple[int, bytes]] = Field(max_length=_MOST_CHANNELS)
    discrete: dict[str, list[int | None]] = Field(max_length=_MOST_CHANNELS)
    rewards: bytes
    successes: bytes
    seen: bytes
    state_sha256: bytes = Field(min_length=_STATE_BYTES, max_length=_STATE_BYTES)


class _Containers:
    """Looks at each list and map as msgpack finishes it, and refuses what no record holds.

    A few KiB may become millions of objects: they must not all exist before the first is looked at.
    """

    def __init__(self) -> None:
        self._left = 2 * _MOST_CHANNELS + 3

    def listed(self, found: list[object]) -> list[object]:
        """A channel's width and bytes, or its integers."""
        is_channel = len(found) == 2 and type(found[1]) is bytes
        if not is_channel and any(
            type(value) is not int or value not in _INT64 for value in found if value is not None
        ):
            raise ValueError("a list holds something else than integers")
        return self._counted(found)

    def mapped(self, found: dict[object, object]) -> dict[object, object]:
        """The record, or its channels by name."""
        return self._counted(found)

    def _counted(self, found: T) -> T:
        self._left -= 1
        if self._left < 0:
            raise ValueError("it holds too many lists")
        return found


def _unpacked(data: bytes) -> _Packed:
    try:
        inflater = zlib.decompressobj()
        inflated = inflater.decompress(data, _MOST_BYTES)
        if inflater.unconsumed_tail or not inflater.eof:
            raise DamagedSteps(
                f"The recorded steps can't be read: they are cut off, or inflate to more than {_MOST_BYTES >> 20} MiB."
            )
        packed = _Packed.model_validate(_loaded(inflated))
    except (zlib.error, ValueError, ValidationError, msgpack.UnpackException, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise DamagedSteps(f"The recorded steps can't be read: {reason}.") from error
    if not all(0 < width <= _LONGEST_CHANNEL for width, _ in packed.continuous.values()):
        raise DamagedSteps("The recorded steps can't be read: a channel has an odd width.")
    return packed


def _loaded(inflated: bytes) -> Any:  # any document, until it is checked
    containers = _Containers()
    return msgpack.unpackb(
        inflated,
        list_hook=containers.listed,
        object_hook=containers.mapped,
        max_array_len=_MOST_STEPS,
        max_map_len=_MOST_CHANNELS,
        max_str_len=_LONGEST_NAME,
        max_ext_len=0,
    )

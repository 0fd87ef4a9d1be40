"""An export read into arrays, once, with everything in it that contradicts itself refused by name."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kinitro.errors import ConfigurationError
from kinitro.schemas import CycleExport, ExportEpisode, ExportHistory, ExportMiner
from kinitro.types import ErrorKind, MinerState

T = TypeVar("T", bound=np.generic)

MAX_CELLS = 200_000_000
"""Most (miner, environment, episode) cells an export may ask for, so that a small file can't take all memory."""

_BLOCK = 2048


class InvalidExport(ConfigurationError):
    """An export contradicts itself, so that no scores follow from it."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"The export is not consistent: {problem}.", advice="Download it again: `kinitro export`.")


@dataclass(frozen=True)
class Outcomes:
    """A cycle's episodes. Arrays are (miner, environment, episode); both axes in the order of their names here.

    `evaluated`: reached a verdict. `success` is False and `reward` 0 where there is none.
    """

    miners: tuple[ExportMiner, ...]
    environments: tuple[str, ...]
    evaluated: NDArray[np.bool_]
    success: NDArray[np.bool_]
    reward: NDArray[np.float64]


def read_outcomes(export: CycleExport) -> Outcomes:
    """The episodes of the evaluated miners, by uid. Raises `InvalidExport`."""
    _check_names(export)
    miners = tuple(
        sorted((miner for miner in export.miners if miner.state is MinerState.EVALUATED), key=lambda miner: miner.uid)
    )
    shape = (len(miners), len(export.environments), export.episodes_per_env)
    if math.prod(shape) > MAX_CELLS:
        raise InvalidExport(f"{shape[0]} miners x {shape[1]} environments x {shape[2]} episodes is beyond any cycle")
    columns = _columns(export, miners)
    own, cells = _cells(columns, shape[2], math.prod(shape))
    reward = np.where(columns.evaluated, columns.reward, 0.0)
    return Outcomes(
        miners,
        tuple(export.environments),
        _spread(shape, cells, columns.evaluated[own]),
        _spread(shape, cells, (columns.success & columns.evaluated)[own]),
        _spread(shape, cells, reward[own]),
    )


def pack_outcomes(export: CycleExport) -> dict[tuple[int, str], tuple[bytes, bytes]]:
    """(uid, env_id) to the bit sets (evaluated, success) that later cycles build on.

    Index i is bit i mod 8, from the least significant, of byte i div 8.
    """
    outcomes = read_outcomes(export)
    evaluated, success = pack(outcomes.evaluated), pack(outcomes.success)
    return {
        (miner.uid, env_id): (evaluated[m, e].tobytes(), success[m, e].tobytes())
        for m, miner in enumerate(outcomes.miners)
        for e, env_id in enumerate(outcomes.environments)
    }


def pack(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Bits along the last axis, least significant first."""
    return np.packbits(flags, axis=-1, bitorder="little")


@dataclass(frozen=True)
class HistoryRows:
    """One earlier cycle in one environment: bit sets (miner, byte) of `uids`."""

    uids: tuple[int, ...]
    evaluated: NDArray[np.uint8]
    success: NDArray[np.uint8]


def read_history(row: ExportHistory) -> HistoryRows:
    """Raises `InvalidExport` unless every bit set has its length and every success was evaluated."""
    name = f"history of cycle {row.cycle_id} in {row.env_id}"
    uids = tuple(row.evaluated)
    if row.evaluated.keys() != row.success.keys():
        raise InvalidExport(f"{name} names different miners as evaluated and as successful")
    width = -(-row.episodes // 8)
    evaluated = _unhex(name, row.evaluated.values(), width)
    same_order = tuple(row.success) == uids
    success = _unhex(name, row.success.values() if same_order else (row.success[uid] for uid in uids), width)
    allowed = pack(np.ones(row.episodes, dtype=np.bool_)) if uids else np.zeros(0, dtype=np.uint8)
    if np.any(evaluated & ~allowed) or np.any(success & ~evaluated):
        raise InvalidExport(f"{name} holds outcomes of episodes that were not evaluated")
    return HistoryRows(uids, evaluated, success)


def _unhex(name: str, texts: Iterable[str], width: int) -> NDArray[np.uint8]:
    values = list(texts)
    if values and set(map(len, values)) != {2 * width}:
        raise InvalidExport(f"{name} has a bit set that is not {width} bytes long")
    try:
        joined = bytes.fromhex("".join(values))
    except ValueError:
        raise InvalidExport(f"{name} has a bit set that is not hex") from None
    if len(joined) != width * len(values):  # white space, which fromhex skips
        raise InvalidExport(f"{name} has a bit set that is not hex")
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(values), width)


def _check_names(export: CycleExport) -> None:
    uids = [miner.uid for miner in export.miners]
    places = [miner.place for miner in export.miners if miner.place is not None]
    earlier = [(row.cycle_id, row.env_id) for row in export.history]
    _refuse_repeats("uid", uids)
    _refuse_repeats("place", places)
    _refuse_repeats("environment", export.environments)
    _refuse_repeats("history of (cycle, environment)", earlier)
    if any(place < 1 for place in places):
        raise InvalidExport("a place is not positive")
    known, environments = set(uids), set(export.environments)
    for row in export.history:
        if row.cycle_id >= export.cycle_id:
            raise InvalidExport(f"history names cycle {row.cycle_id}, which is not earlier than {export.cycle_id}")
        if row.env_id not in environments or not known.issuperset(row.evaluated):
            raise InvalidExport(f"history of cycle {row.cycle_id} names an environment or uid the cycle does not have")


def _refuse_repeats(what: str, values: Sequence[object]) -> None:
    if len(set(values)) != len(values):
        raise InvalidExport(f"a {what} appears twice")


@dataclass(frozen=True)
class _Columns:
    """The episodes, one array a field. `start`: where the (miner, environment) begins in the flattened array."""

    start: NDArray[np.int64]
    index: NDArray[np.int64]
    evaluated: NDArray[np.bool_]
    success: NDArray[np.bool_]
    reward: NDArray[np.float64]


def _columns(export: CycleExport, miners: Sequence[ExportMiner]) -> _Columns:
    count, size = len(export.environments), export.episodes_per_env
    # Episodes of a miner that turned out to be a copy stay in the export but count for nobody: a negative start.
    starts = dict.fromkeys((miner.uid for miner in export.miners), -count * size)
    starts |= {miner.uid: m * count * size for m, miner in enumerate(miners)}
    offsets = {env_id: e * size for e, env_id in enumerate(export.environments)}
    # In blocks that fit the processor's cache: each field is a pass over objects scattered in memory.
    blocks = [export.episodes[at : at + _BLOCK] for at in range(0, len(export.episodes), _BLOCK)] or [[]]
    try:
        columns = [_read_block(block, starts, offsets) for block in blocks]
    except KeyError as missing:
        raise InvalidExport(f"an episode names {missing.args[0]!r}, which the cycle does not have") from None
    return _Columns(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))


_Block = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]


def _read_block(block: Sequence[ExportEpisode], starts: dict[int, int], offsets: dict[str, int]) -> _Block:
    count, lost, faulty = len(block), ErrorKind.INFRASTRUCTURE.value, ErrorKind.POLICY.value
    return (
        np.fromiter((starts[e.uid] + offsets[e.env_id] for e in block), np.int64, count),
        np.fromiter((e.index for e in block), np.int64, count),
        np.fromiter((e.success is not None and e.error_kind != lost for e in block), np.bool_, count),
        np.fromiter((e.success is True and e.error_kind != faulty for e in block), np.bool_, count),
        np.fromiter((e.total_reward or 0.0 for e in block), np.float64, count),
    )


def _cells(columns: _Columns, size: int, total: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which episodes count for somebody, and the position of each of those in the flattened array."""
    if np.any(columns.index >= size):
        raise InvalidExport(f"an episode has an index beyond {size - 1}")
    own = columns.start >= 0
    cells = (columns.start + columns.index)[own]
    taken = np.zeros(total, dtype=np.bool_)
    taken[cells] = True
    if np.count_nonzero(taken) != cells.size:
        raise InvalidExport("an episode appears twice")
    return own, cells


def _spread(shape: tuple[int, int, int], cells: NDArray[np.int64], values: NDArray[T]) -> NDArray[T]:
    array = np.zeros(shape, dtype=values.dtype)
    array.reshape(-1)[cells] = values
    return array

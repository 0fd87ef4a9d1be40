"""Who beat whom in which episodes: all outcomes that count, packed into bits, and counted for the pairs asked for."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinitro.schemas import ExportHistory, ExportMiner
from kinitro.scoring.outcomes import MAX_CELLS, InvalidExport, Outcomes, pack, read_history

Bits = NDArray[np.uint64]
Counts = NDArray[np.int64]

_WORD_BYTES = 8
_BYTE_COUNTS = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class Paired:
    """Challengers against one miner: episodes only the challenger solved, neither or both, only the other.

    Each (challenger, environment).
    """

    wins: Counts
    ties: Counts
    losses: Counts

    def pooled(self) -> "Paired":
        """Summed over environments: each (challenger,)."""
        return Paired(self.wins.sum(-1), self.ties.sum(-1), self.losses.sum(-1))


@dataclass(frozen=True)
class Evidence:
    """Outcomes of this cycle and the earlier ones that count: bit sets (competitor, environment, word).

    Competitors stand in line, by place; `rows` finds each among the outcomes' miners. An episode without a verdict
    is in neither set.
    """

    competitors: tuple[ExportMiner, ...]
    rows: NDArray[np.intp]
    success: Bits
    failure: Bits

    def against(self, other: int, challengers: NDArray[np.intp], environments: slice) -> Paired:
        """Counts of each challenger against one competitor; all are positions in line."""
        won, lost = self.success[other, environments], self.failure[other, environments]
        theirs, missed = self.success[challengers, environments], self.failure[challengers, environments]
        ties = count_bits(theirs & won) + count_bits(missed & lost)
        return Paired(count_bits(theirs & lost), ties, count_bits(missed & won))

    def successes(self, environments: slice) -> Counts:
        """Successes in all episodes that count: (competitor, environment)."""
        return count_bits(self.success[:, environments])


def gather_evidence(outcomes: Outcomes, history: Iterable[ExportHistory]) -> Evidence:
    """Packs what counts for the miners that compete: evaluated, with a place. Raises `InvalidExport`."""
    line = sorted(
        (index for index, miner in enumerate(outcomes.miners) if miner.place is not None),
        key=lambda index: outcomes.miners[index].place or 0,
    )
    competitors = tuple(outcomes.miners[index] for index in line)
    rows = sorted(history, key=lambda row: (row.cycle_id, row.env_id))
    evaluated, success = _blank(outcomes, rows, len(line)), _blank(outcomes, rows, len(line))
    own_width = -(-outcomes.evaluated.shape[2] // 8)
    evaluated[:, :, :own_width] = pack(outcomes.evaluated[line])
    success[:, :, :own_width] = pack(outcomes.success[line])
    _add_history(outcomes, competitors, rows, own_width, evaluated, success)
    return Evidence(
        competitors, np.array(line, dtype=np.intp), success.view(np.uint64), (evaluated & ~success).view(np.uint64)
    )


def _blank(outcomes: Outcomes, history: list[ExportHistory], competitors: int) -> NDArray[np.uint8]:
    """Zeros for (competitor, environment, byte), the bytes enough for the longest environment, in whole words."""
    sizes = dict.fromkeys(outcomes.environments, 0)
    for row in history:
        # By what is there, not by what `episodes` claims: `read_history` refuses a row where the two differ.
        sizes[row.env_id] += max(map(len, row.evaluated.values()), default=0) // 2
    longest = -(-outcomes.evaluated.shape[2] // 8) + max(sizes.values(), default=0)
    shape = (competitors, len(outcomes.environments), -(-longest // _WORD_BYTES) * _WORD_BYTES)
    if shape[0] * shape[1] * shape[2] > MAX_CELLS:
        raise InvalidExport(f"its history would take {shape[0]} x {shape[1]} x {shape[2]} bytes, beyond any cycle's")
    return np.zeros(shape, dtype=np.uint8)


def _add_history(
    outcomes: Outcomes,
    competitors: tuple[ExportMiner, ...],
    history: list[ExportHistory],
    start: int,
    evaluated: NDArray[np.uint8],
    success: NDArray[np.uint8],
) -> None:
    position = {miner.uid: index for index, miner in enumerate(competitors)}
    columns = {env_id: index for index, env_id in enumerate(outcomes.environments)}
    ends = dict.fromkeys(outcomes.environments, start)
    uids: tuple[int, ...] = ()
    competing, lines = np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.intp)
    for row in history:
        if not row.evaluated:
            continue
        bits = read_history(row)
        if bits.uids != uids:  # rows of one cycle mostly name the same miners
            uids = bits.uids
            found = np.array([position.get(uid, -1) for uid in uids], dtype=np.intp)
            competing = found >= 0
            lines = found[competing]
        first, column = ends[row.env_id], columns[row.env_id]
        ends[row.env_id] = last = first + bits.evaluated.shape[1]
        evaluated[lines, column, first:last] = bits.evaluated[competing]
        success[lines, column, first:last] = bits.success[competing]


def count_bits(words: Bits) -> Counts:
    """Bits set along the last axis."""
    if hasattr(np, "bitwise_count"):
        counts: Counts = np.bitwise_count(words).sum(axis=-1, dtype=np.int64)
        return counts
    return count_bits_by_table(words)


def count_bits_by_table(words: Bits) -> Counts:
    """The same for numpy 1, which has no instruction for it."""
    counts: Counts = _BYTE_COUNTS[np.ascontiguousarray(words).view(np.uint8)].sum(axis=-1, dtype=np.int64)
    return counts

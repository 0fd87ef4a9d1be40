"""Are two miners really different? Paired differences with intervals that stay valid however often one looks."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from kinitro.errors import ConfigurationError
from kinitro.schemas import CycleExport
from kinitro.scoring.betting import difference_interval
from kinitro.scoring.ladder import Field, read_field

OVERALL = "all environments"


class Verdict(StrEnum):
    """What the first miner is shown to be."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Difference:
    """First miner's success rate less the second's over the `episodes` both met, with its interval."""

    where: str
    episodes: int
    first_only: int
    second_only: int
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """Decided once the interval leaves zero out."""
        if self.low > 0:
            return Verdict.BETTER
        return Verdict.WORSE if self.high < 0 else Verdict.UNDECIDED


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two uids, overall and in each environment. Each interval holds by itself with probability `confidence`."""

    first: int
    second: int
    confidence: float
    overall: Difference
    environments: tuple[Difference, ...]


def compare_miners(export: CycleExport, first: int, second: int) -> Comparison:
    """Compares over this cycle and the earlier ones that count.

    Raises `ConfigurationError` for a uid that does not compete or for twice the same, `InvalidExport`.
    """
    field = read_field(export)
    if first == second:
        raise ConfigurationError(f"Uid {first} can't be compared with itself.", advice="Name two different miners.")
    positions = [position_in_line(field, uid) for uid in (first, second)]
    paired = field.evidence.against(positions[1], np.array(positions[:1]), slice(None))
    wins, ties, losses = paired.wins[0].tolist(), paired.ties[0].tolist(), paired.losses[0].tolist()
    alpha = export.rule.alpha
    return Comparison(
        first,
        second,
        1 - alpha,
        _difference(OVERALL, sum(wins), sum(ties), sum(losses), alpha),
        tuple(
            _difference(env_id, won, tied, lost, alpha)
            for env_id, won, tied, lost in zip(export.environments, wins, ties, losses, strict=True)
        ),
    )


def position_in_line(field: Field, uid: int) -> int:
    """Where a competing miner stands. `ConfigurationError`, with the reason, for one that does not compete."""
    position = field.line().get(uid)
    if position is not None:
        return position
    miner = next((miner for miner in field.export.miners if miner.uid == uid), None)
    if miner is None:
        known = ", ".join(str(miner.uid) for miner in field.evidence.competitors)
        raise ConfigurationError(
            f"Cycle {field.export.cycle_id} has no miner with uid {uid}.", advice=f"It compares uids {known or 'none'}."
        )
    raise ConfigurationError(
        f"Uid {uid} was not evaluated in cycle {field.export.cycle_id}: {miner.reason or miner.state.value}.",
        advice="Only evaluated miners can be compared.",
    )


def render_comparison(comparison: Comparison) -> str:
    """A table and one sentence, for people."""
    first, second, overall = comparison.first, comparison.second, comparison.overall
    rows = [overall, *comparison.environments]
    width = max(len(row.where) for row in rows)
    header = f"{'':<{width}}  episodes  only {first:<5} only {second:<5} difference  interval"
    lines = [
        f"{row.where:<{width}}  {row.episodes:>8}  {row.first_only:>10} {row.second_only:>10} "
        f"{row.difference:>+10.3f}  {row.low:+.3f} to {row.high:+.3f}  {row.verdict.value}"
        for row in rows
    ]
    return "\n".join([header, *lines, "", _sentence(comparison)])


def _sentence(comparison: Comparison) -> str:
    first, second, overall = comparison.first, comparison.second, comparison.overall
    sure = f"Each interval holds with {comparison.confidence:.0%} confidence, however often one looks."
    match overall.verdict:
        case Verdict.UNDECIDED:
            return f"Undecided: uid {first} and uid {second} are not shown to differ. {sure}"
        case verdict:
            return f"Uid {first} is {verdict.value} than uid {second} over {OVERALL}. {sure}"


def _difference(where: str, wins: int, ties: int, losses: int, alpha: float) -> Difference:
    episodes = wins + ties + losses
    low, high = difference_interval(wins, ties, losses, alpha)
    return Difference(where, episodes, wins, losses, (wins - losses) / max(episodes, 1), low, high)

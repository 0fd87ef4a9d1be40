"""Why one miner earns what it earns, and what it would take to earn more."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from kinitro.errors import ConfigurationError
from kinitro.schemas import CycleExport, ExportMiner
from kinitro.scoring.betting import log_evidence
from kinitro.scoring.evidence import Paired
from kinitro.scoring.ladder import (
    Duel,
    Field,
    Walk,
    eligibility,
    read_field,
    score_field,
    worse_environments,
)
from kinitro.scoring.rates import EnvironmentRecord

FORECAST_CYCLES = 1000


class Standing(StrEnum):
    """How a miner stands to one prize."""

    HOLDS = "holds it"
    BEHIND = "behind the holder"
    OVERTAKEN = "overtaken"
    NOT_ELIGIBLE = "not eligible"


@dataclass(frozen=True, slots=True)
class PrizeLine:
    """One miner and one prize.

    `duel` is the one that decided: against whoever held the prize at this miner's turn; of a holder, its closest
    challenger; of an overtaken one, its overtaker. None when nobody stood against it. `evidence` is this miner's over
    the present holder. `cycles_to_go` is None when it is not improving by enough, or when nothing is to be gained.
    """

    prize: str
    points: int
    holder: int | None
    standing: Standing
    reason: str
    duel: Duel | None = None
    evidence: float | None = None
    cycles_to_go: int | None = None
    improving: bool = False
    worse_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """All of one miner's cycle. `prizes` is empty for a miner that does not compete; `reason` says why."""

    miner: ExportMiner
    cycle_id: int
    reason: str | None
    points: int
    weight: float
    environments: dict[str, EnvironmentRecord]
    prizes: tuple[PrizeLine, ...]

    @property
    def episodes_lost(self) -> int:
        """Episodes without a verdict, through no fault of the miner's."""
        return sum(record.failed for record in self.environments.values())


def explain_miner(export: CycleExport, uid: int) -> Explanation:
    """Raises `ConfigurationError` when the cycle has no such uid, `InvalidExport`."""
    miner = next((miner for miner in export.miners if miner.uid == uid), None)
    if miner is None:
        known = ", ".join(str(miner.uid) for miner in export.miners[:20]) or "none"
        raise ConfigurationError(
            f"Cycle {export.cycle_id} has no miner with uid {uid}.", advice=f"It has uids {known}."
        )
    field = read_field(export)
    score = score_field(field)
    position = field.line().get(uid)
    competes = position is not None
    return Explanation(
        miner,
        export.cycle_id,
        None if competes else f"It does not compete: {miner.reason or miner.state.value}.",
        score.points[uid],
        score.weights.get(uid, 0.0),
        dict(score.records.get(uid, {})),
        () if position is None else tuple(_prize_line(field, walk, position) for walk in score.walks.values()),
    )


def _prize_line(field: Field, walk: Walk, position: int) -> PrizeLine:
    uid = field.evidence.competitors[position].uid
    if uid not in walk.eligible:
        return PrizeLine(walk.prize, walk.points, walk.holder, Standing.NOT_ELIGIBLE, _why_not(field, walk, position))
    if uid == walk.holder:
        return _holders_line(walk, uid)
    return _challengers_line(field, walk, position, uid)


def _why_not(field: Field, walk: Walk, position: int) -> str:
    environments = field.environments_of(walk.prize)
    if field.evidence.successes(environments)[position].sum() == 0:
        return "no success yet"
    assert not eligibility(field, environments)[position]
    evaluated = field.outcomes.evaluated[field.evidence.rows[position], environments].sum(-1)
    names = field.export.environments[environments]
    least = int(evaluated.argmin())
    return (
        f"only {evaluated[least]} of {field.export.episodes_per_env} episodes of {names[least]} were evaluated "
        "in this cycle; 90 % are needed"
    )


def _holders_line(walk: Walk, uid: int) -> PrizeLine:
    rivals = [duel for duel in walk.duels if duel.holder == uid]
    closest = max(rivals, key=lambda duel: duel.evidence - duel.needed, default=None)
    if closest is None:
        reason = "nobody eligible stands behind it"
    elif closest.worse_in:
        reason = (
            f"uid {closest.challenger} has evidence enough ({closest.evidence:.1f} of {closest.needed:.1f}) but is "
            f"shown to be worse in {', '.join(closest.worse_in)}"
        )
    else:
        reason = (
            f"the closest behind it is uid {closest.challenger}, with evidence {closest.evidence:.1f} of the "
            f"{closest.needed:.1f} it needs"
        )
    return PrizeLine(walk.prize, walk.points, uid, Standing.HOLDS, reason, closest)


@dataclass(frozen=True, slots=True)
class _Facing:
    """A challenger's evidence over the present holder, and how it does against its rival."""

    evidence: float
    improving: bool
    worse_in: tuple[str, ...]


def _challengers_line(field: Field, walk: Walk, position: int, uid: int) -> PrizeLine:
    taken = next((duel for duel in walk.duels if duel.holder == uid and duel.overtakes), None)
    duel = taken or next(duel for duel in walk.duels if duel.challenger == uid)
    rival = duel.challenger if taken else duel.holder
    line = field.line()
    against_rival = _paired(field, walk, position, line[rival])
    against_holder = _paired(field, walk, position, line[walk.holder if walk.holder is not None else rival])
    margin = field.export.rule.min_improvement
    facing = _Facing(
        _pooled_evidence(against_holder, margin),
        not taken and _margin(duel) > margin,
        worse_environments(field, against_rival, field.environments_of(walk.prize)),
    )
    to_go = _cycles_to_go(field, walk, duel) if facing.improving else None
    return PrizeLine(
        walk.prize,
        walk.points,
        walk.holder,
        Standing.OVERTAKEN if taken else Standing.BEHIND,
        _overtaken_reason(duel) if taken else _behind_reason(walk, duel, to_go, facing),
        duel,
        facing.evidence,
        to_go,
        facing.improving,
        facing.worse_in,
    )


def _overtaken_reason(duel: Duel) -> str:
    return (
        f"uid {duel.challenger} overtook it, with evidence {duel.evidence:.1f} of {duel.needed:.1f} needed; "
        "it gets the prize back only if later episodes take that evidence away"
    )


def _behind_reason(walk: Walk, duel: Duel, to_go: int | None, line: _Facing) -> str:
    counts = f"{duel.wins} episodes won, {duel.losses} lost, {duel.ties} alike"
    parts = [f"evidence {duel.evidence:.1f} of the {duel.needed:.1f} needed against uid {duel.holder} ({counts})"]
    if line.worse_in:
        parts.append(f"shown to be worse in {', '.join(line.worse_in)}")
    if duel.evidence >= duel.needed:
        parts.append("the evidence is enough")
    elif not line.improving:
        parts.append("not improving: it does not win more than it loses by the margin asked for")
    elif to_go is None:
        parts.append(f"more than {FORECAST_CYCLES} cycles to go at the present margin")
    else:
        parts.append(f"about {to_go} more cycle{'s' if to_go != 1 else ''} at the present margin")
    if walk.holder != duel.holder:
        parts.append(
            f"uid {duel.holder} held the prize at its turn; uid {walk.holder}, later in line, has taken it since "
            f"(evidence over it: {line.evidence:.1f})"
        )
    return "; ".join(parts)


def _paired(field: Field, walk: Walk, position: int, other: int) -> Paired:
    """This miner against another: each (environment,)."""
    paired = field.evidence.against(other, np.array([position]), field.environments_of(walk.prize))
    return Paired(paired.wins[0], paired.ties[0], paired.losses[0])


def _pooled_evidence(paired: Paired, margin: float) -> float:
    pooled = paired.pooled()
    return float(log_evidence(pooled.wins, pooled.ties, pooled.losses, margin))


def _margin(duel: Duel) -> float:
    return (duel.wins - duel.losses) / max(duel.wins + duel.ties + duel.losses, 1)


def _cycles_to_go(field: Field, walk: Walk, duel: Duel) -> int | None:
    """Cycles like the past ones until the evidence is enough; None when beyond the forecast."""
    met = duel.wins + duel.ties + duel.losses
    environments = len(field.export.environments[field.environments_of(walk.prize)])
    # The same mix of outcomes again, cycle after cycle.
    growth = 1 + np.arange(FORECAST_CYCLES + 1) * environments * field.export.episodes_per_env / met
    evidence = log_evidence(
        duel.wins * growth, duel.ties * growth, duel.losses * growth, field.export.rule.min_improvement
    )
    enough = np.flatnonzero(evidence >= duel.needed)
    return int(enough[0]) if enough.size else None


def render_explanation(explanation: Explanation) -> str:
    """For people: the miner, its rates, its prizes."""
    miner = explanation.miner
    place = f"place {miner.place} in line" if miner.place is not None else "no place in line"
    lines = [
        f"Uid {miner.uid}, {miner.hotkey}: {miner.repo} at {miner.revision[:12]}, {place}.",
        f"Cycle {explanation.cycle_id}: {explanation.points} points, weight {explanation.weight:.4f}.",
    ]
    if explanation.reason:
        lines.append(explanation.reason)
    if explanation.environments:
        lines += ["", *_rate_lines(explanation)]
    if explanation.prizes:
        lines += ["", *(_render_prize(line) for line in explanation.prizes)]
    return "\n".join(lines)


def _rate_lines(explanation: Explanation) -> list[str]:
    width = max(map(len, explanation.environments))
    lines = [
        f"{env_id:<{width}}  {record.success_rate:6.1%}  ({record.low:.1%} to {record.high:.1%})  "
        f"{record.completed} episodes" + (f", {record.failed} lost" if record.failed else "")
        for env_id, record in explanation.environments.items()
    ]
    lost = explanation.episodes_lost
    if lost:
        lines.append(f"{lost} episodes reached no verdict through no fault of the miner's; they count for nothing.")
    return lines


def _render_prize(line: PrizeLine) -> str:
    holder = "nobody holds it" if line.holder is None else f"held by uid {line.holder}"
    points = f"{line.points} point{'s' if line.points != 1 else ''}"
    return f"{line.prize} ({points}, {holder}): {line.standing.value}; {line.reason}."

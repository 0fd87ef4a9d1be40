"""The epsilon-Pareto ladder: who holds which prize, and what that pays (contracts section 8)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinitro.schemas import CycleExport, WeightsU16
from kinitro.scoring.betting import log_evidence, overtaking_threshold
from kinitro.scoring.evidence import Evidence, Paired, gather_evidence
from kinitro.scoring.outcomes import Outcomes, read_outcomes
from kinitro.scoring.rates import Records, environment_records, pareto_frontier
from kinitro.scoring.weights import scale_u16, share_weights

CROWN = "crown"
_ELIGIBLE_PERCENT = 90


@dataclass(frozen=True, slots=True)
class Duel:
    """One step of a walk: a challenger against who held the prize when its turn came. Uids, pooled counts.

    `worse_in` names environments where the challenger is shown to be worse; looked at only when the evidence is
    enough.
    """

    challenger: int
    holder: int
    wins: int
    ties: int
    losses: int
    evidence: float
    needed: float
    worse_in: tuple[str, ...]

    @property
    def overtakes(self) -> bool:
        """Whether the challenger takes the prize."""
        return self.evidence >= self.needed and not self.worse_in


@dataclass(frozen=True, slots=True)
class Walk:
    """How one prize found its holder: the eligible miners in line, and each one's duel."""

    prize: str
    points: int
    eligible: tuple[int, ...]
    holder: int | None
    duels: tuple[Duel, ...]


@dataclass(frozen=True)
class Field:
    """An export read once: what scores, explanations and comparisons are all computed from."""

    export: CycleExport
    outcomes: Outcomes
    evidence: Evidence

    def environments_of(self, prize: str) -> slice:
        """The environments a prize is given for, as positions."""
        if prize == CROWN:
            return slice(0, len(self.export.environments))
        start = self.export.environments.index(prize)
        return slice(start, start + 1)

    def line(self) -> dict[int, int]:
        """Uid to position in line."""
        return {miner.uid: position for position, miner in enumerate(self.evidence.competitors)}


@dataclass(frozen=True)
class CycleScore:
    """All that follows from one cycle. Uids ascend in every mapping; `walks` has the crown first."""

    records: Records
    pareto_frontier: tuple[int, ...]
    walks: Mapping[str, Walk]
    points: Mapping[int, int]
    weights: Mapping[int, float]
    weights_u16: WeightsU16

    @property
    def success_rates(self) -> dict[int, dict[str, float]]:
        """Uid to env_id to this cycle's rate."""
        return {uid: {env: record.success_rate for env, record in row.items()} for uid, row in self.records.items()}

    @property
    def prizes(self) -> dict[str, int | None]:
        """`crown` and each env_id to its holder's uid."""
        return {prize: walk.holder for prize, walk in self.walks.items()}

    def document(self) -> dict[str, Any]:  # Any: JSON
        """What `kinitro score --json` prints."""
        return {
            "success_rates": self.success_rates,
            "pareto_frontier": list(self.pareto_frontier),
            "prizes": self.prizes,
            "points": dict(self.points),
            "weights": dict(self.weights),
            "weights_u16": self.weights_u16.model_dump(),
        }


def score_cycle(export: CycleExport) -> CycleScore:
    """Scores, prizes and weights of a closed cycle; the scheduler and `kinitro score` both call this.

    Raises `InvalidExport` when the export contradicts itself. Miners that are not evaluated or have no place earn
    nothing. `weights` is empty when nobody has points and the rule names no burn uid.
    """
    return score_field(read_field(export))


def read_field(export: CycleExport) -> Field:
    """Raises `InvalidExport`."""
    outcomes = read_outcomes(export)
    return Field(export, outcomes, gather_evidence(outcomes, export.history))


def score_field(field: Field) -> CycleScore:
    """See `score_cycle`."""
    rule = field.export.rule
    walks = {prize: walk_prize(field, prize) for prize in prizes_of(field.export)}
    points = dict.fromkeys(sorted(miner.uid for miner in field.export.miners), 0)
    for walk in walks.values():
        if walk.holder is not None:
            points[walk.holder] += walk.points
    records = environment_records(field.outcomes)
    competing = {miner.uid: records[miner.uid] for miner in field.evidence.competitors}
    weights = share_weights(points, rule.temperature, rule.burn_uid)
    return CycleScore(records, pareto_frontier(competing, rule.epsilon), walks, points, weights, scale_u16(weights))


def prizes_of(export: CycleExport) -> tuple[str, ...]:
    """The crown, then each environment's badge."""
    return (CROWN, *export.environments) if export.environments else (CROWN,)


def walk_prize(field: Field, prize: str) -> Walk:
    """Walks the eligible miners by place: the first holds the prize, each that overtakes the holder takes it."""
    environments = field.environments_of(prize)
    eligible = np.flatnonzero(eligibility(field, environments))
    duels: list[Duel] = []
    done, batch = 1, 1
    holder = int(eligible[0]) if eligible.size else -1
    while done < eligible.size:
        # Batches double until somebody overtakes: few array operations in the common case of one lasting holder, and
        # never more than twice the pairs that the walk needs.
        fought = _duels(field, holder, eligible[done : done + batch], environments)
        taken = next((index for index, duel in enumerate(fought) if duel.overtakes), None)
        if taken is None:
            duels += fought
            done, batch = done + batch, batch * 2
        else:
            duels += fought[: taken + 1]
            holder = int(eligible[done + taken])
            done, batch = done + taken + 1, 1
    uids = [miner.uid for miner in field.evidence.competitors]
    return Walk(
        prize,
        len(field.export.environments) ** 2 if prize == CROWN else 1,
        tuple(uids[position] for position in eligible),
        uids[holder] if eligible.size else None,
        tuple(duels),
    )


def eligibility(field: Field, environments: slice) -> NDArray[np.bool_]:
    """Whether each competitor may hold a prize for these environments: evaluated enough, with a success that counts."""
    evaluated = field.outcomes.evaluated[field.evidence.rows, environments].sum(-1)
    enough = np.all(evaluated * 100 >= _ELIGIBLE_PERCENT * field.export.episodes_per_env, axis=-1)
    succeeded = field.evidence.successes(environments).sum(-1) > 0
    eligible: NDArray[np.bool_] = enough & succeeded
    return eligible


def worse_environments(field: Field, paired: Paired, environments: slice) -> tuple[str, ...]:
    """Where one challenger is shown to be worse than the other by more than epsilon. `paired`: (environment,)."""
    rule, names = field.export.rule, field.export.environments[environments]
    shown = log_evidence(paired.losses, paired.ties, paired.wins, rule.epsilon) >= np.log(len(names) / rule.alpha)
    return tuple(name for name, worse in zip(names, shown, strict=True) if worse)


def _duels(field: Field, holder: int, challengers: NDArray[np.intp], environments: slice) -> list[Duel]:
    rule, line = field.export.rule, field.evidence.competitors
    paired = field.evidence.against(holder, challengers, environments)
    pooled = paired.pooled()
    evidence = log_evidence(pooled.wins, pooled.ties, pooled.losses, rule.min_improvement)
    needed = overtaking_threshold(_places_behind(field, holder, challengers), rule.alpha)
    fought = []
    for index, position in enumerate(challengers):
        each = Paired(paired.wins[index], paired.ties[index], paired.losses[index])
        enough = evidence[index] >= needed[index]
        fought.append(
            Duel(
                line[position].uid,
                line[holder].uid,
                int(pooled.wins[index]),
                int(pooled.ties[index]),
                int(pooled.losses[index]),
                float(evidence[index]),
                float(needed[index]),
                worse_environments(field, each, environments) if enough else (),
            )
        )
    return fought


def _places_behind(field: Field, holder: int, challengers: NDArray[np.intp]) -> NDArray[np.int64]:
    places = np.array([miner.place or 0 for miner in field.evidence.competitors], dtype=np.int64)
    behind: NDArray[np.int64] = places[challengers] - places[holder]
    return behind

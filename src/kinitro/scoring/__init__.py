"""Pure scoring: outcomes to comparisons, to prizes, to weights (contracts section 8)."""

from kinitro.scoring.betting import log_evidence
from kinitro.scoring.ladder import CycleScore, score_cycle
from kinitro.scoring.outcomes import InvalidExport, pack_outcomes
from kinitro.scoring.rates import EnvironmentRecord
from kinitro.scoring.seeds import episode_seed, policy_seed, salt_digest
from kinitro.scoring.weights import settle_weights

__all__ = [
    "CycleScore",
    "EnvironmentRecord",
    "InvalidExport",
    "episode_seed",
    "log_evidence",
    "pack_outcomes",
    "policy_seed",
    "salt_digest",
    "score_cycle",
    "settle_weights",
]

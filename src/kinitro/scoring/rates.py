"""What is shown of a cycle by itself: rates with intervals, and the frontier of those nobody dominates."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kinitro.scoring.betting import wilson_interval
from kinitro.scoring.outcomes import Outcomes

# 1 - 0.95 is more than 0.05 in floats; rates differ by at least 1 / episodes^2, far above this.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class EnvironmentRecord:
    """One miner in one environment, this cycle. `failed` episodes could not be evaluated and count for nothing.

    Without evaluated episodes the rate and the mean reward are 0 and the interval is (0, 1).
    """

    success_rate: float
    low: float
    high: float
    mean_reward: float
    completed: int
    failed: int


Records = Mapping[int, Mapping[str, EnvironmentRecord]]


def environment_records(outcomes: Outcomes) -> dict[int, dict[str, EnvironmentRecord]]:
    """Uid to env_id to record, for every evaluated miner."""
    completed = outcomes.evaluated.sum(-1).tolist()
    successes = outcomes.success.sum(-1).tolist()
    rewards = outcomes.reward.sum(-1).tolist()
    episodes = outcomes.evaluated.shape[2]
    return {
        miner.uid: {
            env_id: _record(successes[m][e], completed[m][e], rewards[m][e], episodes)
            for e, env_id in enumerate(outcomes.environments)
        }
        for m, miner in enumerate(outcomes.miners)
    }


def _record(successes: int, completed: int, reward: float, episodes: int) -> EnvironmentRecord:
    low, high = wilson_interval(successes, completed)
    trials = max(completed, 1)
    return EnvironmentRecord(successes / trials, low, high, reward / trials, completed, episodes - completed)


def pareto_frontier(records: Records, epsilon: float) -> tuple[int, ...]:
    """Uids that no other epsilon-dominates: not worse by more than epsilon anywhere, better by more somewhere.

    Miners without an evaluated episode somewhere have no rates to compare and are left out.
    """
    rated = {uid: envs for uid, envs in sorted(records.items()) if all(record.completed for record in envs.values())}
    if not rated:
        return ()
    rates = np.array([[record.success_rate for record in envs.values()] for envs in rated.values()])
    limit = epsilon + _ROUNDING
    free = []
    for uid, own in zip(rated, rates, strict=True):
        better = rates - own
        dominated = np.all(better >= -limit, axis=1) & np.any(better > limit, axis=1)
        if not dominated.any():
            free.append(uid)
    return tuple(free)

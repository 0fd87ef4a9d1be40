"""How long an executor that flips a share of its verdicts goes undetected, by the real rules: cycles until others have
contradicted it once, and until it is quarantined; and how many flipped verdicts were scored until then.

Every policy is deterministic here; of the executors, which take equal shares of all work, one lies.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from kinitro.scheduler.audit import is_beyond_luck

SHARES = (1.0, 0.5, 0.1, 0.03, 0.01, 0.003, 0.001)
MOST_CYCLES = 5000


@dataclass(frozen=True)
class Subnet:
    """`episodes` a miner in one cycle."""

    miners: int
    episodes: int
    executors: int
    rate: float

    @property
    def watched(self) -> float:
        """Chance that an episode is checked with the liar as one of the two parties."""
        own = 1 / self.executors
        return self.rate * (own + (1 - own) / (self.executors - 1))


def until_quarantine(subnet: Subnet, share: float, chance: np.random.Generator) -> tuple[int, int, int]:
    """Cycle of the first contradiction, cycle of the quarantine, and flipped verdicts scored meanwhile."""
    together = np.ones(subnet.miners, dtype=bool)  # miners whose tasks it still gets
    first, scored = 0, 0
    for cycle in range(1, MOST_CYCLES + 1):
        checks = chance.binomial(subnet.episodes, subnet.watched, subnet.miners) * together
        caught = chance.random(subnet.miners) < 1 - (1 - share) ** checks
        together &= ~caught
        first = first or (cycle if caught.any() else 0)
        if is_beyond_luck(int((~together).sum()), 0):
            return first, cycle, scored  # all of this cycle is run again
        # Found in this cycle: what it said of that miner is withdrawn. Of the others it is scored.
        scored += int(chance.binomial(subnet.episodes // subnet.executors, share, subnet.miners)[together].sum())
        if not together.any():
            return first, MOST_CYCLES, scored
    return first or MOST_CYCLES, MOST_CYCLES, scored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--miners", type=int, default=50)
    parser.add_argument("--episodes", type=int, default=400, help="a miner and cycle (8 environments x 50)")
    parser.add_argument("--executors", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--rounds", type=int, default=300)
    arguments = parser.parse_args()
    subnet = Subnet(arguments.miners, arguments.episodes, arguments.executors, arguments.rate)
    chance = np.random.default_rng(0)
    print(f"{subnet}, {arguments.rounds} rounds; mean (95th percentile)")
    print(f"{'flips':>8}{'first contradicted':>24}{'quarantined':>24}{'flipped and scored':>24}")
    for share in SHARES:
        rounds = np.array([until_quarantine(subnet, share, chance) for _ in range(arguments.rounds)])
        cells = [f"{column.mean():,.1f} ({np.percentile(column, 95):,.0f})" for column in rounds.T]
        print(f"{share:>8.1%}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()

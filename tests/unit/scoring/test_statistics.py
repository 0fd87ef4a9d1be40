"""What the rule promises about luck, tried with fixed seeds."""

import numpy as np
import pytest
from numpy.typing import NDArray

from kinitro.schemas import CycleExport, ExportMiner, RuleOut
from kinitro.scoring.betting import log_evidence, overtaking_threshold
from kinitro.scoring.evidence import Evidence
from kinitro.scoring.ladder import CROWN, Field, walk_prize
from kinitro.scoring.outcomes import Outcomes
from kinitro.types import MinerState

ALPHA = 0.05
RATE = 0.6


def equals(random: np.random.Generator, miners: int, shape: tuple[int, ...], shared: float) -> NDArray[np.bool_]:
    """Outcomes (miner, ...) of equally good miners; a `shared` part of the episodes goes alike for all of them."""
    alike = random.random(shape) < shared
    luck = np.where(alike, random.random(shape), random.random((miners, *shape)))
    return luck < RATE


@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_an_equal_next_in_line_hardly_ever_looks_better_however_often_one_looks(shared: float) -> None:
    random = np.random.default_rng(11)
    won = RATE * (1 - RATE) * (1 - shared)
    # 20,000 pairs, 8 environments of 50 episodes, looked at after each of 40 cycles.
    counts = random.multinomial(400, [won, won, 1 - 2 * won], size=(20_000, 40)).cumsum(axis=1)
    evidence = log_evidence(counts[..., 0], counts[..., 2], counts[..., 1], 0.0)
    false_crowns = (evidence >= overtaking_threshold(1, ALPHA)).any(axis=1).mean()
    assert 0 < false_crowns <= 6 / np.pi**2 * ALPHA


@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_a_line_of_256_equals_takes_no_crown_from_the_first(shared: float) -> None:
    random = np.random.default_rng(5)
    false_crowns = sum(crown_ever_moves(random, shared) for _ in range(20))
    assert false_crowns <= ALPHA * 20


@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_a_miner_10_points_better_gets_the_crown_within_few_cycles(shared: float) -> None:
    random = np.random.default_rng(3)
    took = [cycles_to_overtake(random, 0.7, shared) for _ in range(200)]
    assert np.median(took) <= 3


def crown_ever_moves(random: np.random.Generator, shared: float) -> bool:
    """Whether any of 255 equals behind the first gets the crown at the end of any of 10 cycles."""
    success = equals(random, 256, (4, 10, 64), shared)
    words = np.packbits(success, axis=-1, bitorder="little").view(np.uint64)[..., 0]
    for cycles in range(1, 11):
        field = make_field(words[:, :, :cycles], success[:, :, cycles - 1])
        if walk_prize(field, CROWN).holder != 0:
            return True
    return False


def make_field(words: NDArray[np.uint64], latest: NDArray[np.bool_]) -> Field:
    """A field without its file: bit sets of all cycles so far and the latest cycle's outcomes."""
    miners = tuple(
        ExportMiner(
            uid=uid, hotkey="", repo="", revision="", committed_block=0, place=uid + 1, state=MinerState.EVALUATED
        )
        for uid in range(len(words))
    )
    environments = [f"sim/task-{e}" for e in range(latest.shape[1])]
    export = CycleExport.model_construct(environments=environments, episodes_per_env=latest.shape[2], rule=RuleOut())
    outcomes = Outcomes(miners, tuple(environments), np.ones_like(latest), latest, np.zeros(latest.shape))
    return Field(export, outcomes, Evidence(miners, np.arange(len(miners)), words, ~words))


def cycles_to_overtake(random: np.random.Generator, rate: float, shared: float) -> int:
    both = np.minimum(RATE, rate)
    alone = shared * both + (1 - shared) * RATE * rate
    counts = random.multinomial(400, [rate - alone, RATE - alone, 1 - rate - RATE + 2 * alone], size=40).cumsum(axis=0)
    evidence = log_evidence(counts[:, 0], counts[:, 2], counts[:, 1], 0.01)
    return int(np.argmax(evidence >= overtaking_threshold(1, ALPHA))) + 1

"""Raw outcomes to weights: how long, on one core, and how it grows. Run by `make bench-score`.

The outcomes are made beforehand and handed over as the parsed export, as the scheduler hands them over. Seconds are of
processor time, so that other work on the machine counts little.
"""

import argparse
import gc
import os
import time

import numpy as np

from kinitro.schemas import CycleExport, ExportEpisode, ExportHistory, ExportMiner, RuleOut
from kinitro.scoring.ladder import read_field, score_field
from kinitro.types import CycleStatus, MinerState

LIMIT_S = 2.0


def make_export(miners: int, environments: int, episodes: int, cycles: int, *, rising: bool) -> CycleExport:
    """Random outcomes; `rising`: each miner a little better than the one before, so that prizes pass on and on."""
    random = np.random.default_rng(0)
    env_ids = [f"sim/task-{e:02}" for e in range(environments)]
    rates = np.linspace(0.3, 0.9, miners) if rising else np.full(miners, 0.6)
    outcomes = random.random((miners, environments, episodes)) < rates[:, None, None]
    return CycleExport.model_construct(
        format=1,
        cycle_id=cycles + 1,
        status=CycleStatus.COMPLETED,
        episodes_per_env=episodes,
        rule=RuleOut(),
        environments=env_ids,
        miners=[make_miner(uid) for uid in range(miners)],
        episodes=[
            make_episode(uid, env_id, index, bool(outcomes[uid, e, index]))
            for uid in range(miners)
            for e, env_id in enumerate(env_ids)
            for index in range(episodes)
        ],
        history=[
            make_history(cycle, env_id, random.random((miners, episodes)) < rates[:, None])
            for cycle in range(1, cycles + 1)
            for env_id in env_ids
        ],
    )


def make_miner(uid: int) -> ExportMiner:
    return ExportMiner.model_construct(uid=uid, place=uid + 1, state=MinerState.EVALUATED)


def make_episode(uid: int, env_id: str, index: int, success: bool) -> ExportEpisode:
    return ExportEpisode.model_construct(
        uid=uid, env_id=env_id, index=index, success=success, total_reward=1.5, error_kind=None
    )


def make_history(cycle: int, env_id: str, success: np.ndarray) -> ExportHistory:
    rows = np.packbits(success, axis=-1, bitorder="little")
    all_ran = np.packbits(np.ones(success.shape[1], dtype=bool), bitorder="little").tobytes().hex()
    return ExportHistory.model_construct(
        cycle_id=cycle,
        env_id=env_id,
        episodes=success.shape[1],
        evaluated=dict.fromkeys(range(len(rows)), all_ran),
        success={uid: row.tobytes().hex() for uid, row in enumerate(rows)},
    )


def measure(miners: int, environments: int, episodes: int, cycles: int, *, rising: bool = False) -> float:
    export = make_export(miners, environments, episodes, cycles, rising=rising)
    gc.collect()  # the garbage of making the outcomes is not scoring's
    start = time.process_time()
    field = read_field(export)
    read = time.process_time()
    score = score_field(field)
    end = time.process_time()
    duels = sum(len(walk.duels) for walk in score.walks.values())
    taken = sum(duel.overtakes for walk in score.walks.values() for duel in walk.duels)
    print(
        f"{miners:>6} {environments:>5} {episodes:>9} {cycles:>7} {read - start:>9.2f} {end - read:>8.2f} "
        f"{end - start:>8.2f} {duels:>7} {taken:>6}"
    )
    return end - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the full size only")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core
    print("miners  envs  episodes  cycles  reading  walking  seconds  duels  taken")
    if not arguments.quick:
        for size in [(64, 60, 50, 100), (128, 60, 50, 100), (256, 15, 50, 100), (256, 60, 50, 0), (256, 60, 50, 50)]:
            measure(*size)
    rising = measure(256, 60, 50, 100, rising=True)
    full = measure(256, 60, 50, 100)
    verdict = "within" if max(full, rising) <= LIMIT_S else "OVER"
    print(f"Full size: {full:.2f} s, {rising:.2f} s when prizes keep passing on; {verdict} the limit of {LIMIT_S} s.")
    raise SystemExit(0 if verdict == "within" else 1)


if __name__ == "__main__":
    main()

"""Prints how often MetaWorld's scripted experts succeed natively and through our Action channels, as a table.

python bench/experts.py [--tasks reach-v3,push-v3] [--seeds 20] [--processes 2]
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from kinitro.environments import registry
from kinitro.environments.base import EnvironmentOptions, Randomisation
from kinitro.environments.metaworld import specs
from kinitro.environments.metaworld.adapter import MetaWorldEnvironment
from kinitro.environments.metaworld.experts import NativeEpisodes

MAX_STEPS = 500


@dataclass(frozen=True)
class Row:
    """One task's successes out of the same seeds, and how many of those at `off` stay successes at `standard`."""

    task: str
    native: int
    off: int
    standard: int
    kept: int


def measure(task: str, seeds: int) -> Row:

    native = NativeEpisodes(task)
    natively = np.array([native.run(seed, MAX_STEPS) for seed in range(seeds)])
    off, standard = (through_channels(task, seeds, level) for level in (Randomisation.OFF, Randomisation.STANDARD))
    return Row(task, int(natively.sum()), int(off.sum()), int(standard.sum()), int((off & standard).sum()))


def through_channels(task: str, seeds: int, level: Randomisation) -> np.ndarray:
    options = EnvironmentOptions(images=False, randomisation=level)
    environment = registry.build(registry.find(f"metaworld/{task}"), options)
    assert isinstance(environment, MetaWorldEnvironment)
    try:
        return np.array([solves(environment, seed) for seed in range(seeds)])
    finally:
        environment.close()


def solves(environment: MetaWorldEnvironment, seed: int) -> bool:
    environment.reset(seed)
    return any(environment.step(environment.expert_action()).success for _ in range(MAX_STEPS))


def print_table(rows: list[Row], seeds: int) -> None:
    print("| task | native | ours, `off` | ours, `standard` | kept |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        kept = f"{row.kept}/{row.off}"
        print(
            f"| {row.task} | {row.native}/{seeds} | {row.off}/{seeds} | {row.standard}/{seeds} | {kept} |", flush=True
        )
    total = seeds * len(rows)
    sums = [sum(getattr(row, name) for row in rows) for name in ("native", "off", "standard", "kept")]
    print(f"| **all** | {sums[0]}/{total} | {sums[1]}/{total} | {sums[2]}/{total} | {sums[3]}/{sums[1]} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    tasks = arguments.tasks.split(",") if arguments.tasks else [spec.task_name for spec in specs()]
    with ProcessPoolExecutor(arguments.processes) as pool:
        rows = list(pool.map(measure, tasks, [arguments.seeds] * len(tasks)))
    print_table(rows, arguments.seeds)


if __name__ == "__main__":
    main()

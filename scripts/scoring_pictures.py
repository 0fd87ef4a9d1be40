"""The simulation behind docs/scoring.md: draws its pictures and prints its figures.

Run from the checkout: `uv run --with matplotlib python scripts/scoring_pictures.py`. Seeds are fixed; it takes seconds.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from kinitro.scoring.betting import log_evidence, overtaking_threshold

mpl.use("Agg")
from matplotlib import pyplot as plt

IMAGES = Path(__file__).parent.parent / "docs" / "images"
EPISODES = 8 * 50  # environments x episodes in a cycle
HOLDER_RATE = 0.6
ALPHA, MIN_IMPROVEMENT = 0.05, 0.01
BLUE, GREY, RED = "#2a6fbb", "#8a8a8a", "#c0392b"


def evidence_over_cycles(
    random: np.random.Generator, margin: float, cycles: int, runs: int, shared: float = 0.0
) -> NDArray[np.float64]:
    """Evidence (run, cycle) of a challenger better by `margin`. `shared`: part of the episodes alike for both."""
    rate = HOLDER_RATE + margin
    both = shared * min(rate, HOLDER_RATE) + (1 - shared) * rate * HOLDER_RATE
    win, loss = rate - both, HOLDER_RATE - both
    counts = random.multinomial(EPISODES, [win, loss, 1 - win - loss], size=(runs, cycles)).cumsum(axis=1)
    return log_evidence(counts[..., 0], counts[..., 2], counts[..., 1], MIN_IMPROVEMENT)


def cycles_to_crown(evidence: NDArray[np.float64], places_behind: int) -> NDArray[np.float64]:
    """First cycle with enough evidence, by run; infinity when it never came."""
    enough = evidence >= overtaking_threshold(places_behind, ALPHA)
    return np.where(enough.any(axis=1), enough.argmax(axis=1) + 1, np.inf)


def draw_evidence(random: np.random.Generator) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for margin, colour, name in ((0.05, BLUE, "5 points better"), (0.0, GREY, "equal"), (-0.05, RED, "5 points worse")):
        runs = evidence_over_cycles(random, margin, cycles=20, runs=6)
        for index, run in enumerate(runs):
            axes.plot(range(1, 21), run, color=colour, lw=1.3, alpha=0.8, label=name if index == 0 else None)
    for places in (1, 255):
        needed = float(overtaking_threshold(places, ALPHA))
        axes.axhline(needed, color="black", lw=1, ls="--")
        label = f"needed\n{places} place{'s' if places > 1 else ''} behind"
        axes.text(20.3, needed, label, va="center", fontsize=8)
    axes.set(xlabel="cycles", ylabel="log evidence", xlim=(1, 20), ylim=(-12, 22), xticks=range(2, 21, 2))
    axes.legend(frameon=False, loc="upper left")
    save(figure, "scoring-evidence.png")


def draw_cycles_to_crown(random: np.random.Generator) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    margins = np.arange(3, 21)
    evidence = {int(m): evidence_over_cycles(random, m / 100, cycles=150, runs=300) for m in margins}
    for places, colour in ((1, BLUE), (10, GREY), (255, RED)):
        took = np.array([cycles_to_crown(evidence[int(m)], places) for m in margins])
        low, middle, high = np.quantile(np.minimum(took, 1000), [0.1, 0.5, 0.9], axis=1)
        axes.plot(margins, middle, color=colour, label=f"{places} place{'s' if places > 1 else ''} behind the holder")
        axes.fill_between(margins, low, high, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="points better than the holder, in every environment", ylabel="cycles to the crown", yscale="log")
    axes.set(xlim=(3, 20), ylim=(0.9, 150), yticks=[1, 2, 5, 10, 20, 50, 100], xticks=range(3, 21))
    axes.set_yticklabels(["1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.legend(frameon=False)
    save(figure, "scoring-cycles.png")


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(IMAGES / name, dpi=110, metadata={"Software": None})
    plt.close(figure)
    print(f"docs/images/{name}: {(IMAGES / name).stat().st_size / 1024:.0f} KiB")


def print_figures(random: np.random.Generator) -> None:
    print("Cycles to the crown, median (90 % of runs within; -: not within 150), 300 runs:")
    for margin in (0.20, 0.10, 0.05, 0.03):
        for shared in (0.0, 0.7):
            evidence = evidence_over_cycles(random, margin, cycles=150, runs=300, shared=shared)
            cells = []
            for places in (1, 255):
                took = cycles_to_crown(evidence, places)
                most = np.quantile(took, 0.9, method="higher")
                cells.append(
                    f"{np.median(took):.0f} ({most:.0f})" if np.isfinite(most) else f"{np.median(took):.0f} (-)"
                )
            print(f"  {margin * 100:.0f} points, {shared:.0%} shared: 1 place {cells[0]}, 255 places {cells[1]}")
    for shared in (0.0, 0.7):
        equal = evidence_over_cycles(random, 0.0, cycles=40, runs=20_000, shared=shared)
        false = np.isfinite(cycles_to_crown(equal, 1)).mean()
        print(f"  equal, {shared:.0%} shared: {false:.3%} of 20,000 ever taken for better in 40 cycles")


def main() -> None:
    random = np.random.default_rng(1)
    draw_evidence(random)
    draw_cycles_to_crown(random)
    print_figures(random)


if __name__ == "__main__":
    main()

"""The demo's last page: who did what how well, who is paid, and what that means."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from kinitro.demo.miners import MINERS
from kinitro.schemas import MinerOut, ScoreOut, ScoresOut, WeightsOut
from kinitro.types import MinerState


@dataclass(frozen=True)
class Outcome:
    """What the API answers after a completed cycle."""

    scores: ScoresOut
    weights: WeightsOut | None
    miners: list[MinerOut]


def leaderboard(outcome: Outcome) -> Table:
    """One column a miner, one row an environment, then points and weights."""
    cell = {(score.uid, score.env_id): _rate(score) for score in outcome.scores.scores}
    environments = sorted({env_id for _, env_id in cell})
    table = Table(title=f"Cycle {outcome.scores.cycle.id}: success rate (95 % Wilson interval)", title_justify="left")
    table.add_column("environment", no_wrap=True)
    for uid, miner in enumerate(MINERS):
        table.add_column(f"{miner.name}\n(uid {uid})", justify="right")
    for env_id in environments:
        table.add_row(env_id.removeprefix("metaworld/"), *(cell.get((uid, env_id), "-") for uid in range(len(MINERS))))
    table.add_section()
    table.add_row("points", *(str(points) for points in _points(outcome)))
    table.add_row("[bold]weight[/]", *(f"[bold]{weight:.1%}[/]" for weight in _weights(outcome)))
    return table


def _rate(score: ScoreOut) -> str:
    if score.wilson_low is None or score.wilson_high is None:
        return f"{score.success_rate:.0%}"
    return f"{score.success_rate:.0%}\n{score.wilson_low:.0%}-{score.wilson_high:.0%}"


def _points(outcome: Outcome) -> list[int]:
    points = outcome.weights.metadata.get("points", {}) if outcome.weights else {}
    return [int(points.get(str(uid), 0)) for uid in range(len(MINERS))]


def _weights(outcome: Outcome) -> list[float]:
    weights = outcome.weights.weights if outcome.weights else {}
    return [weights.get(uid, 0.0) for uid in range(len(MINERS))]


def meaning(outcome: Outcome) -> str:
    """What the table says, in a sentence or two."""
    weights = _weights(outcome)
    best = max(range(len(MINERS)), key=lambda uid: weights[uid])
    copies = [
        f"{MINERS[miner.uid].name} earns nothing: it is a {miner.reason} ({_name(miner.reason)})."
        for miner in outcome.miners
        if miner.state is MinerState.COPY and miner.reason
    ]
    first = (
        f"{MINERS[best].name} earns {weights[best]:.0%} of the rewards: each prize (one for every environment, and a "
        "crown for all of them together) goes to the earliest policy that nobody later has been shown to beat."
        if weights[best] > 0
        else "Nobody earned anything in this cycle."
    )
    return " ".join([first, *copies])


def _name(reason: str) -> str:
    return MINERS[int(reason.rsplit(" ", 1)[-1])].name


def show(console: Console, outcome: Outcome) -> None:
    """Prints the table and the sentence under it."""
    console.print()
    console.print(leaderboard(outcome))
    console.print(meaning(outcome))
    console.print()

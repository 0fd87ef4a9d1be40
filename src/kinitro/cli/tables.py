"""What commands print for people: tables, in one style."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from kinitro.cli.common import counted

if TYPE_CHECKING:
    from kinitro.environments import EnvironmentSpec
    from kinitro.environments.preview import Preview
    from kinitro.scoring import CycleScore
    from kinitro.storage import KnownExecutor
    from kinitro.storage.admin import DatabaseStatus


def console() -> Console:
    """Stdout, for tables."""
    return Console(highlight=False)


def print_table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """One table; every cell by its text."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=column == "environment")  # ids are copied from here: whole or not at all
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console().print(table)


_TOLD = ("cycles", "submissions", "tasks", "executors")
"""What `db status` counts for a person; --json has every table."""


def database_table(status: "DatabaseStatus", init: str) -> None:
    """`kinitro db status`; `init` is the command that makes the tables."""
    out = console()
    out.print(f"Database  {status.url}")
    if status.revision is None:
        out.print(f"Schema    none yet. Next: {init}")
        return
    out.print(
        f"Schema    {status.revision}" + ("" if status.revision == status.head else f" (this version: {status.head})")
    )
    for label, cycle in (("Current", status.current_cycle), ("Last", status.last_cycle)):
        if cycle is None:
            out.print(f"{label:<9} no cycle")
            continue
        since = f"{cycle.started_at:%Y-%m-%d %H:%M} UTC"
        out.print(
            f"{label:<9} cycle {cycle.id}, {cycle.status.value}, {counted(cycle.n_miners, 'miner')}, since {since}"
        )
    if status.latest_weights:
        shares = ", ".join(f"uid {uid}: {share:.1%}" for uid, share in status.latest_weights.weights.items())
        out.print(f"Weights   of cycle {status.latest_weights.cycle_id}: {shares}")
    else:
        out.print("Weights   none published yet")
    out.print(f"Rows      {', '.join(f'{name} {status.counts[name]}' for name in _TOLD)}")


def executors_table(executors: "Sequence[KnownExecutor]") -> None:
    """`kinitro executors list`."""
    rows = []
    for executor in executors:
        seen = f"{executor.last_seen_at:%Y-%m-%d %H:%M} UTC" if executor.last_seen_at else "not for a day"
        kept = [f"{'everything' if one.hotkey is None else one.hotkey}: {one.reason}" for one in executor.quarantines]
        rows.append((executor.executor_id, seen, "\n".join(kept) or "nothing"))
    print_table(counted(len(rows), "executor"), ("executor", "last seen", "kept from"), rows)


def environments_table(specs: "Sequence[EnvironmentSpec]") -> None:
    """`kinitro env list`: a line each, under what the environments of a family have in common."""
    out = console()
    out.print(f"{len(specs)} environments; * is in the default set")
    for (family, *common), members in groupby(specs, lambda spec: (spec.family, *_common(spec))):
        out.print()
        facts = Table.grid(padding=(0, 2, 0, 0))
        for label, values in zip(("cameras", "actions"), common, strict=True):
            facts.add_row(label, ", ".join(values))
        out.print(family, facts, sep="\n")
        rows = ((spec.env_id + " *" * spec.default, "needed" if spec.needs_images else "optional") for spec in members)
        print_table(None, ("environment", "images"), rows)


def _common(spec: "EnvironmentSpec") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cameras and action channels."""
    numbers = (f"{name} ({size})" for name, size in spec.continuous.items())
    choices = (f"{name} (1 of {count})" for name, count in spec.discrete.items())
    return spec.cameras, (*numbers, *choices)


def score_table(score: "CycleScore") -> None:
    """`kinitro score`: rates with intervals, prizes, points and weights."""
    records = [(uid, env_id, record) for uid, found in score.records.items() for env_id, record in found.items()]
    print_table(
        "Success rates (95 % Wilson interval)",
        ("uid", "environment", "rate", "evaluated", "lost"),
        (
            (
                uid,
                env_id,
                f"{record.success_rate:.0%} ({record.low:.0%}-{record.high:.0%})",
                record.completed,
                record.failed,
            )
            for uid, env_id, record in records
        ),
    )
    print_table(
        "Prizes",
        ("prize", "held by"),
        ((prize, "nobody" if holder is None else f"uid {holder}") for prize, holder in score.prizes.items()),
    )
    print_table(
        "Weights",
        ("uid", "points", "weight"),
        ((uid, score.points.get(uid, 0), f"{weight:.2%}") for uid, weight in score.weights.items()),
    )


def preview_table(preview: "Preview") -> None:
    """`kinitro env test`."""
    out = console()
    solved = sum(episode.success for episode in preview.episodes)
    out.print(
        f"{preview.env_id} ({preview.version}), {preview.actor.value}: {solved} of {len(preview.episodes)} solved"
    )
    print_table(
        None,
        ("seed", "outcome", "steps", "reward"),
        (
            (
                episode.seed,
                episode.failed or ("success" if episode.success else "no success"),
                episode.steps,
                f"{episode.total_reward:.1f}",
            )
            for episode in preview.episodes
        ),
    )
    out.print(
        f"build {preview.build_s:.2f} s, reset {preview.reset_s * 1e3:.0f} ms, step {preview.step_s * 1e3:.2f} ms"
        f" ({1 / preview.step_s:.0f} steps a second)"
    )
    if preview.picture:
        out.print(f"Picture: {preview.picture}")

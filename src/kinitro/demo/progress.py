"""What the demo shows while its cycle runs, and when it gives up."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kinitro.client import KinitroClient
from kinitro.errors import InfrastructureError, KinitroError
from kinitro.schemas import TaskStats
from kinitro.types import CycleStatus

POLL_S = 0.5
STANDS_STILL_S = 300.0
"""An episode takes seconds, on a slow machine a minute."""
NEEDED_BYTES = 32 * 2**20
"""With less, PostgreSQL can't go on: it makes files of 16 MiB."""


async def watch_cycle(
    client: KinitroClient,
    check: Callable[[], Awaitable[None]],
    home: Path,
    console: Console,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Shows progress until the first cycle is completed, and returns its id. `check` raises when a service has ended.

    `KinitroError` when the cycle fails, `InfrastructureError` when the disk is full or nothing moves for long.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        shown, seen, moved = bar.add_task("planning", total=None), "", clock()
        while True:
            await check()
            _insist_on_room(home)
            stats = await client.stats()
            bar.update(shown, description=_phase(stats), total=stats.total_tasks or None, completed=_closed(stats))
            if (cycle_id := await _closed_cycle(client)) is not None:
                bar.update(shown, completed=stats.total_tasks)
                return cycle_id
            if (now := f"{_phase(stats)} {stats}") != seen:
                seen, moved = now, clock()
            elif clock() - moved > STANDS_STILL_S:
                await _give_up(client)
            await asyncio.sleep(POLL_S)


async def _closed_cycle(client: KinitroClient) -> int | None:
    closed = [cycle for cycle in await client.cycles() if cycle.completed_at is not None]
    if closed and closed[-1].status is CycleStatus.FAILED:
        raise KinitroError(f"Cycle {closed[-1].id} failed: {closed[-1].failure_reason}.")
    return closed[-1].id if closed else None


def _insist_on_room(home: Path) -> None:
    if shutil.disk_usage(home).free < NEEDED_BYTES:
        raise InfrastructureError(
            f"The disk with {home} is full.",
            code="disk_full",
            advice="Free some, or work on another one: kinitro demo --home DIR (or TMPDIR=DIR kinitro demo).",
        )


async def _give_up(client: KinitroClient) -> None:
    reasons = " ".join((await client.status()).reasons) or "No service says why."
    raise InfrastructureError(
        f"Nothing has moved for {STANDS_STILL_S / 60:g} minutes. {reasons}",
        code="stands_still",
        advice="Look for what is wrong with this machine: kinitro doctor.",
    )


def _closed(stats: TaskStats) -> int:
    return stats.completed_tasks + stats.failed_tasks


def _phase(stats: TaskStats) -> str:
    if not stats.total_tasks:
        return "waiting for the block that decides the seeds"
    return "episodes" if _closed(stats) < stats.total_tasks else "scoring"

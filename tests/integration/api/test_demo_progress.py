"""What the demo does when its cycle does not come to an end."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from rich.console import Console

from kinitro.client import KinitroClient
from kinitro.demo import progress
from kinitro.errors import InfrastructureError, KinitroError


async def is_up() -> None:
    """All services run."""


def hours() -> Iterator[float]:
    return (3600.0 * number for number in count())


@pytest.fixture
async def client(start_api, database_url, world):
    async with start_api(database_url) as api, KinitroClient(api.url) as client:
        yield client


async def watch(client: KinitroClient, home: Path) -> int:
    return await progress.watch_cycle(client, is_up, home, Console(quiet=True), hours().__next__)


async def test_one_in_which_nothing_moves_is_given_up_with_the_reason(client, world, tmp_path) -> None:
    await world.plan()
    with pytest.raises(InfrastructureError, match=r"^Nothing has moved for 5 minutes\. .*none has asked for work"):
        await watch(client, tmp_path)


async def test_a_full_disk_is_named(client, world, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "NEEDED_BYTES", 2**62)
    await world.plan()
    with pytest.raises(InfrastructureError, match=f"The disk with {tmp_path} is full") as caught:
        await watch(client, tmp_path)
    assert "kinitro demo --home DIR" in (caught.value.advice or "")


async def test_one_that_fails_says_why(client, world, tmp_path) -> None:
    await world.fail(await world.plan())
    with pytest.raises(KinitroError, match="got no verdict"):
        await watch(client, tmp_path)


async def test_one_that_is_completed_ends_it(client, world, tmp_path) -> None:
    cycle_id = await world.finished_cycle()
    assert await watch(client, tmp_path) == cycle_id

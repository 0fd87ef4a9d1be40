"""Exports that are kept between requests."""

import asyncio

from kinitro.api.exports import ExportFiles
from kinitro.schemas import CycleExport


async def test_files_that_are_asked_for_by_turns_are_each_made_once(world) -> None:
    first, second = await world.finished_cycle(), await world.finished_cycle()
    files = ExportFiles(world.database)
    made = [await files.get(cycle_id) for cycle_id in (first, second)]
    again = [await files.get(cycle_id) for cycle_id in (first, second)]
    assert [CycleExport.model_validate_json(file).cycle_id for file in made] == [first, second]
    assert all(one is other for one, other in zip(made, again, strict=True))


async def test_many_who_ask_at_once_get_one_and_the_same_file(world) -> None:
    cycle_id = await world.finished_cycle()
    files = ExportFiles(world.database)
    made = await asyncio.gather(*(files.get(cycle_id) for _ in range(5)))
    assert all(file is made[0] for file in made)


async def test_only_the_latest_few_are_kept(world) -> None:
    cycles = [await world.finished_cycle() for _ in range(5)]
    files = ExportFiles(world.database)
    oldest = await files.get(cycles[0])
    for cycle_id in cycles[1:]:
        newest = await files.get(cycle_id)
    assert await files.get(cycles[0]) is not oldest
    assert await files.get(cycles[-1]) is newest

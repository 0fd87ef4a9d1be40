import asyncio

import pytest
from sqlalchemy import text

from kinitro.errors import DatabaseUnreachable
from kinitro.storage import admin
from kinitro.storage.database import located, open_database, parse_url


@pytest.fixture
async def fresh_url(empty_database_url: str):
    """A name nobody uses yet, on a running server."""
    url = parse_url(empty_database_url)
    fresh = url.set(database=f"{url.database}_fresh").render_as_string(hide_password=False)
    yield fresh
    await admin.drop(fresh)


async def test_create_init_upgrade_status_drop_are_a_databases_whole_life(fresh_url: str) -> None:
    assert await admin.create(fresh_url)
    assert not await admin.create(fresh_url)
    empty = await admin.status(fresh_url)
    assert (empty.revision, empty.counts) == (None, {})
    assert await admin.init(fresh_url) == empty.head
    assert await admin.upgrade(fresh_url) == empty.head
    status = await admin.status(fresh_url)
    assert (status.revision, status.counts["tasks"], status.current_cycle) == (empty.head, 0, None)
    assert await admin.drop(fresh_url)
    assert not await admin.drop(fresh_url)


async def test_init_does_not_create_a_missing_database_and_says_what_does(fresh_url: str) -> None:
    with pytest.raises(DatabaseUnreachable, match="kinitro db create --database-url"):
        await admin.init(fresh_url)


async def test_reset_works_on_a_missing_an_empty_a_full_and_a_foreign_database(fresh_url: str, kit) -> None:
    await admin.reset(fresh_url)
    await admin.reset(fresh_url)
    async with open_database(fresh_url) as database, database.begin() as connection:
        await connection.execute(text('create table "other table" (n int)'))
        await connection.execute(text("insert into notices (topic, text) values ('a', 'b')"))
        await connection.execute(text("update alembic_version set version_num = '9999'"))
    await admin.reset(fresh_url)
    status = await admin.status(fresh_url)
    assert (status.revision, status.counts["notices"]) == (status.head, 0)


async def test_init_twice_at_once_does_it_once(fresh_url: str) -> None:
    await admin.create(fresh_url)
    assert len(set(await asyncio.gather(*(admin.init(fresh_url) for _ in range(3))))) == 1


async def test_status_shows_the_open_cycle_the_last_one_and_the_latest_weights(kit, database_url: str) -> None:
    closed = await kit.start_cycle()
    await kit.run("update cycles set status = 'completed', completed_at = clock_timestamp()")
    await kit.run(
        "insert into weights (cycle_id, block_number, weights, u16_uids, u16_values, hotkeys, netuid, genesis,"
        f" expires_at_block, notes) values ({closed}, 9, '{{\"3\": 1.0}}', '[3]', '[65535]', '{{}}', 1, '0x', 99,"
        " '{}')"
    )
    running = await kit.start_cycle()
    status = await admin.status(database_url)
    assert status.current_cycle is not None
    assert status.last_cycle is not None
    assert status.latest_weights is not None
    assert (status.current_cycle.id, status.last_cycle.id) == (running, closed)
    assert (status.latest_weights.block_number, status.latest_weights.weights) == (9, {3: 1.0})
    assert status.counts["tasks"] == 16


async def test_a_database_name_is_never_read_as_sql(database_server) -> None:
    odd = parse_url(database_server.url).set(database='odd "name; drop').render_as_string(hide_password=False)
    assert await admin.create(odd)
    async with located(odd) as place:
        await (await place.connect()).close()
    assert await admin.drop(odd)

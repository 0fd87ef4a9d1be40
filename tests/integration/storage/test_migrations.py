"""What a database holds when its schema changes."""

from alembic import command
from sqlalchemy import Connection

from kinitro.storage import file_claims, schema


def migrate_to(connection: Connection, revision: str) -> None:
    config = schema._config()
    config.attributes["connection"] = connection
    (command.upgrade if revision == "head" else command.downgrade)(config, revision)


async def test_what_executors_said_of_policies_files_outlives_an_upgrade(kit) -> None:
    cycle_id = await kit.start_cycle(miners=2, environments=["a/b"], episodes=2)
    for executor in ("one", "two"):
        for task in (await kit.pool.fetch(executor, 2, None)).tasks:
            digest = f"{task.miner_uid}" * 64
            await kit.pool.submit(executor, [kit.result(task, tree_digest=digest)])
    async with kit.database.connect() as connection:
        before = await file_claims(connection, cycle_id)
    assert len({claim.uid for claim in before}) == 2
    async with kit.database.begin() as connection:
        await connection.run_sync(migrate_to, "0005")
        await connection.run_sync(migrate_to, "head")
    async with kit.database.connect() as connection:
        assert sorted(await file_claims(connection, cycle_id)) == sorted(before)
        assert len(await kit.rows("select 1 from present_executors")) == 2

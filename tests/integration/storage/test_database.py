import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from kinitro.errors import ConfigurationError, DatabaseUnreachable, SchemaMismatch
from kinitro.storage import admin
from kinitro.storage.database import Database, open_database, parse_url
from kinitro.storage.tables import metadata


async def test_migrations_make_exactly_the_tables_of_the_models(database: Database) -> None:
    async with database.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts={"compare_type": True}), metadata)
        )
    assert differences == []


async def test_an_empty_database_is_refused_with_the_command_that_fills_it(empty_database_url: str) -> None:
    with pytest.raises(SchemaMismatch, match="kinitro db init"):
        async with open_database(empty_database_url):
            pass


async def test_a_newer_database_is_refused_and_left_alone(database_url: str, database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="made by a newer Kinitro"):
        async with open_database(database_url):
            pass
    with pytest.raises(SchemaMismatch, match="made by a newer Kinitro"):
        await admin.upgrade(database_url)


async def test_a_missing_database_names_the_command_that_creates_it(database_url: str) -> None:
    missing = parse_url(database_url).set(database="not_there").render_as_string(hide_password=False)
    with pytest.raises(DatabaseUnreachable, match=r'no database "not_there".*kinitro db create --database-url'):
        async with open_database(missing):
            pass


async def test_connections_that_died_while_idle_are_replaced_unnoticed(database_server, database: Database) -> None:
    async with database.connect() as connection:
        pid = await connection.scalar(text("select pg_backend_pid()"))
    await database_server.run(f"select pg_terminate_backend({pid})")
    await asyncio.sleep(0.2)
    await database.ping()


async def test_refused_credentials_are_said_and_the_password_is_not_shown(database_server, database_url: str) -> None:
    url = parse_url(database_url)
    # With a password asked for this is a wrong one; where everyone is trusted, as embedded, a role without login.
    await database_server.run("do $$ begin create role nobody_known nologin; exception when others then null; end $$")
    wrong = url.set(username="nobody_known", password="s3cret").render_as_string(hide_password=False)
    with pytest.raises(DatabaseUnreachable, match="Check the user and the password") as caught:
        async with open_database(wrong):
            pass
    assert "s3cret" not in str(caught.value)


async def test_a_closed_port_and_an_unknown_host_are_one_clear_line_each() -> None:
    with pytest.raises(DatabaseUnreachable, match=r"nothing listens at 127\.0\.0\.1:1\."):
        async with open_database("postgresql://user:pw@127.0.0.1:1/name"):
            pass
    with pytest.raises(DatabaseUnreachable, match=r"the host nosuch\.invalid is not known"):
        async with open_database("postgresql://user:pw@nosuch.invalid/name"):
            pass


async def test_a_connection_that_is_cut_is_unreachable_and_the_next_one_works(
    database_server, database: Database
) -> None:
    async def work_while_it_is_cut() -> None:
        async with database.begin() as connection:
            pid = await connection.scalar(text("select pg_backend_pid()"))
            await database_server.run(f"select pg_terminate_backend({pid})")
            await connection.execute(text("select 1"))

    with pytest.raises(DatabaseUnreachable, match="was lost"):
        await work_while_it_is_cut()
    await database.ping()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://user@host/name", "only PostgreSQL"),
        ("postgresql://user@host", "names no database"),
        ("postgresql:///name", "names no host"),
        ("just words", "can't be read"),
        ("postgresql://user@host:port/name", "can't be read"),
    ],
)
async def test_a_url_that_is_not_one_says_what_it_lacks(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        async with open_database(url):
            pass


async def test_the_short_scheme_is_the_same_database(database_url: str) -> None:
    async with open_database(database_url.replace("postgresql://", "postgres://")) as database:
        await database.ping()

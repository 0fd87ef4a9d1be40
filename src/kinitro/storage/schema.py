"""The schema's version: what a database has, what this code needs, and the way from one to the other."""

from collections.abc import Callable
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.errors import SchemaMismatch

_MIGRATION_LOCK = 0x6B696E6D  # "kinm": two `db init` at once take turns


def head() -> str:
    """The revision this version of the code needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


async def current(connection: AsyncConnection) -> str | None:
    """The revision of the database; None when it holds no Kinitro schema."""
    if await connection.scalar(text("select to_regclass('alembic_version')")) is None:
        return None
    revision: str | None = await connection.scalar(text("select version_num from alembic_version"))
    return revision


async def check(connection: AsyncConnection, shown_url: str, typed: Callable[[str], str]) -> None:
    """Raises SchemaMismatch unless the schema is exactly this version's. `typed` writes the `kinitro db` command."""
    found = await current(connection)
    if found == head():
        return
    if found is None:
        raise SchemaMismatch(
            f"The database {shown_url} has no Kinitro tables yet.", advice=f"Create them with {typed('init')}."
        )
    if _is_known(found):
        raise SchemaMismatch(
            f"The database {shown_url} has an older schema ({found}) than this Kinitro needs ({head()}).",
            advice=f"Stop the services, then run {typed('upgrade')}.",
        )
    raise SchemaMismatch(
        f"This database was made by a newer Kinitro: {shown_url} has schema {found}, unknown here.",
        advice="Update this installation of Kinitro.",
    )


async def migrate(connection: AsyncConnection, shown_url: str, typed: Callable[[str], str]) -> None:
    """Brings the schema to this version, inside the caller's transaction. Refuses a newer one with SchemaMismatch."""
    await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    found = await current(connection)
    if found is not None and not _is_known(found):
        await check(connection, shown_url, typed)
    await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _is_known(revision: str) -> bool:
    return revision in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("kinitro.storage") / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config

"""What `kinitro db` does to a whole database: create, bring up, look, wipe, remove.

Everywhere a URL of None is the embedded database under `home`.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncpg
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.errors import DatabaseError, DatabaseUnreachable
from kinitro.storage import schema
from kinitro.storage.database import Place, located, open_place
from kinitro.storage.tables import cycles, metadata, weights
from kinitro.types import CycleStatus

_MAINTENANCE = "postgres"


@dataclass(frozen=True)
class CycleLine:
    """One cycle, for a person."""

    id: int
    status: CycleStatus
    block_number: int
    started_at: datetime
    completed_at: datetime | None
    n_miners: int


@dataclass(frozen=True)
class WeightsLine:
    """The latest published weights, for a person. `weights` maps uid to share."""

    cycle_id: int
    block_number: int
    published_at: datetime
    weights: Mapping[int, float]


@dataclass(frozen=True)
class DatabaseStatus:
    """What a database holds. `revision` is None without a schema, and then nothing else is known.

    `current_cycle` is the open one; `last_cycle` the latest closed one. `counts` has the rows of every table.
    """

    url: str
    revision: str | None
    head: str
    counts: Mapping[str, int]
    current_cycle: CycleLine | None = None
    last_cycle: CycleLine | None = None
    latest_weights: WeightsLine | None = None


async def create(url: str | None, *, home: Path | None = None) -> bool:
    """Creates the empty database. False when it was there already."""
    async with located(url, home=home) as place:
        return await _create(place)


async def init(url: str | None, *, home: Path | None = None) -> str:
    """Brings the schema up by migrations and returns its revision. The embedded database is also created.

    Raises SchemaMismatch when a newer Kinitro made the database.
    """
    async with located(url, home=home) as place:
        if url is None:
            await _create(place)
        await _migrate(place)
    return schema.head()


async def upgrade(url: str | None, *, home: Path | None = None) -> str:
    """Migrates to this version's schema and returns its revision."""
    return await init(url, home=home)


async def reset(url: str | None, *, home: Path | None = None) -> str:
    """Deletes every table and makes them anew, creating the database itself when it is missing."""
    async with located(url, home=home) as place:
        if not await _create(place):
            await _wipe(place)
        await _migrate(place)
    return schema.head()


async def drop(url: str | None, *, home: Path | None = None) -> bool:
    """Removes the database and everything in it, ending others' connections. False when there was none."""
    async with located(url, home=home) as place:
        if await _is_missing(place):
            return False
        async with _maintenance(place) as connection:
            await connection.execute(f"drop database if exists {_quoted(place.name)} with (force)")
        return True


async def status(url: str | None, *, home: Path | None = None) -> DatabaseStatus:
    """What is in the database. Without our schema only the revisions are filled."""
    async with located(url, home=home) as place, open_place(place) as database, database.connect() as connection:
        found = await schema.current(connection)
        if found != schema.head():
            return DatabaseStatus(place.shown, found, schema.head(), {})
        return DatabaseStatus(
            url=place.shown,
            revision=found,
            head=found,
            counts=await _counts(connection),
            current_cycle=await _latest_cycle(connection, CycleStatus.PENDING, CycleStatus.RUNNING),
            last_cycle=await _latest_cycle(connection, CycleStatus.COMPLETED, CycleStatus.FAILED),
            latest_weights=await _latest_weights(connection),
        )


async def _create(place: Place) -> bool:
    if not await _is_missing(place):
        return False
    async with _maintenance(place) as connection:
        try:
            # A clean template: the server's own may hold other tables or another encoding.
            await connection.execute(f"create database {_quoted(place.name)} template template0 encoding 'UTF8'")
        except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
            return False  # another process was quicker
        return True


async def _is_missing(place: Place) -> bool:
    """Asks the database itself: not every user may connect to the server's own to look."""
    try:
        connection = await place.connect()
    except DatabaseUnreachable as error:
        if isinstance(error.__cause__, asyncpg.InvalidCatalogNameError):
            return True
        raise
    await connection.close()
    return False


async def _migrate(place: Place) -> None:
    async with open_place(place) as database, database.begin() as connection:
        await schema.migrate(connection, place.shown, place.command)


async def _wipe(place: Place) -> None:
    """Drops the tables one by one: dropping the schema itself needs more rights than an owner has before 15."""
    async with open_place(place) as database, database.begin() as connection:
        await connection.execute(text("set local lock_timeout = '10s'"))
        names = await connection.scalars(
            text("select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = current_schema()")
        )
        if found := ", ".join(names):
            try:
                await connection.execute(text(f"drop table {found} cascade"))
            except DBAPIError as error:
                if not isinstance(error.orig and error.orig.__cause__, asyncpg.LockNotAvailableError):
                    raise
                raise DatabaseError(
                    f"The database {place.shown} is in use.", advice="Stop the services, then run the reset again."
                ) from error


@asynccontextmanager
async def _maintenance(place: Place) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the server's own database, from where others are created and dropped."""
    connection = await place.sibling(_MAINTENANCE).connect()
    try:
        yield connection
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseError(
            f"The user {place.url.username} may not do this on {place.shown}: {error}.",
            advice=f"Ask the server's administrator, or run as one: `alter role {place.url.username} createdb`.",
        ) from error
    finally:
        await connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def _counts(connection: AsyncConnection) -> dict[str, int]:
    counted = {}
    for table in metadata.sorted_tables:
        counted[table.name] = await connection.scalar(select(func.count()).select_from(table)) or 0
    return counted


async def _latest_cycle(connection: AsyncConnection, *statuses: CycleStatus) -> CycleLine | None:
    query = select(
        cycles.c.id,
        cycles.c.status,
        cycles.c.block_number,
        cycles.c.started_at,
        cycles.c.completed_at,
        cycles.c.n_miners,
    )
    row = (
        await connection.execute(query.where(cycles.c.status.in_(statuses)).order_by(cycles.c.id.desc()).limit(1))
    ).one_or_none()
    if row is None:
        return None
    return CycleLine(row.id, CycleStatus(row.status), row.block_number, row.started_at, row.completed_at, row.n_miners)


async def _latest_weights(connection: AsyncConnection) -> WeightsLine | None:
    row = (await connection.execute(select(weights).order_by(weights.c.cycle_id.desc()).limit(1))).one_or_none()
    if row is None:
        return None
    shares = {int(uid): float(share) for uid, share in row.weights.items()}
    return WeightsLine(row.cycle_id, row.block_number, row.published_at, shares)

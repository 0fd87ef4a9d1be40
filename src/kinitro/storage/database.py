"""One PostgreSQL, by URL or embedded: how we connect to it, and what its failures are called."""

import asyncio
import shlex
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from kinitro.errors import ConfigurationError, DatabaseUnreachable
from kinitro.settings import home_directory
from kinitro.storage import schema
from kinitro.storage.embedded import running_server

_CONNECT_TIMEOUT_S = 5.0
_PING_TIMEOUT_S = 5.0
_STATEMENT_TIMEOUT_S = 120.0
_SESSION = {
    "application_name": "kinitro",
    "timezone": "UTC",
    # A peer that vanished without a word must not hold its row locks for hours.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


@dataclass(frozen=True)
class Database:
    """An engine and its name. Every method raises DatabaseUnreachable when the server can't be reached or goes away.

    `url` is for messages: its password is masked.
    """

    engine: AsyncEngine
    url: str

    async def ping(self) -> None:
        """Returns when the database answers; raises DatabaseUnreachable after 5 s at the latest."""
        try:
            async with asyncio.timeout(_PING_TIMEOUT_S), self.connect() as connection:
                await connection.execute(text("select 1"))
        except TimeoutError:
            raise DatabaseUnreachable(
                f"The database {self.url} did not answer within {_PING_TIMEOUT_S:g} s.",
                advice="Check that it is up and not overloaded.",
            ) from None

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end, rolled back by an exception."""
        with _losses_translated(self.url):
            async with self.engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """One connection; nothing is committed unless the caller does."""
        with _losses_translated(self.url):
            async with self.engine.connect() as connection:
                yield connection


@asynccontextmanager
async def open_database(
    url: str | None, *, home: Path | None = None, check_schema: bool = True
) -> AsyncIterator[Database]:
    """Connects to `postgresql://user:password@host:port/name`, or to the embedded server under `home` without a URL.

    Raises ConfigurationError for a URL that can't be read, DatabaseUnreachable when there is no connection, and,
    unless `check_schema` is false, SchemaMismatch when the schema is not this version's.
    """
    async with located(url, home=home) as place, open_place(place) as database:
        if check_schema:
            async with database.connect() as connection:
                await schema.check(connection, place.shown, place.command)
        yield database


@dataclass(frozen=True)
class Place:
    """Where a database is. Only the embedded server can be brought back by us: `revive` does."""

    url: URL
    revive: Callable[[], Awaitable[None]] | None = None

    @property
    def name(self) -> str:
        """The database's name on its server."""
        return self.url.database or ""

    @property
    def shown(self) -> str:
        """The URL for messages, its password masked."""
        return unquote(self.url.render_as_string(hide_password=True))

    def command(self, name: str) -> str:
        """The `kinitro db` command that means this database. A masked password can't be pasted, so it is not shown."""
        return db_command(name, None if self.revive is not None else self.url)

    def sibling(self, name: str) -> "Place":
        """Another database of the same server."""
        return Place(self.url.set(database=name), self.revive)

    async def connect(self) -> asyncpg.Connection:
        """A new connection. Raises DatabaseUnreachable, with the reason in one line."""
        try:
            return await self._connect_once()
        except (ConnectionRefusedError, FileNotFoundError) as error:
            if self.revive is None:
                raise self._unreachable(error) from error
        # Our own server was killed: nobody else will start it again.
        await self.revive()
        try:
            return await self._connect_once()
        except OSError as error:
            raise self._unreachable(error) from error

    async def _connect_once(self) -> asyncpg.Connection:
        dsn = self.url.render_as_string(hide_password=False)
        try:
            return await asyncpg.connect(
                dsn, timeout=_CONNECT_TIMEOUT_S, command_timeout=_STATEMENT_TIMEOUT_S, server_settings=_SESSION
            )
        except (ConnectionRefusedError, FileNotFoundError):
            raise
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise self._unreachable(error) from error
        except ValueError as error:  # asyncpg's own checks of the URL
            raise _not_a_url(f"{self.shown} can't be used ({error})") from error

    def _unreachable(self, error: Exception) -> DatabaseUnreachable:
        cause, advice = _explain(error, self)
        return DatabaseUnreachable(f"Can't connect to the database {self.shown}: {cause}.", advice=advice)


@asynccontextmanager
async def located(url: str | None, *, home: Path | None = None) -> AsyncIterator[Place]:
    """The place of a database; the embedded server runs as long as this is open. Nothing is connected yet."""
    if url is not None:
        yield Place(parse_url(url))
        return
    async with running_server(home or home_directory()) as server:
        yield Place(make_url(server.url()), server.restart_if_down)


def parse_url(url: str) -> URL:
    """Reads a database URL, or raises ConfigurationError that says what is missing."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise _not_a_url("The database URL can't be read") from None
    if parsed.drivername.split("+")[0] not in ("postgresql", "postgres"):
        raise _not_a_url(f"The database URL starts with {parsed.drivername}://, and only PostgreSQL is supported")
    if not parsed.database:
        raise _not_a_url(f"The database URL {parsed.render_as_string(hide_password=True)} names no database")
    if not parsed.host and "host" not in parsed.query:
        raise _not_a_url(f"The database URL {parsed.render_as_string(hide_password=True)} names no host")
    return parsed.set(drivername="postgresql")


def db_command(name: str, url: URL | None) -> str:
    """`kinitro db NAME` for the database of this URL, else for the embedded one, as it can be typed."""
    if url is None:
        return f"`kinitro db {name}`"
    if url.password or "password" in url.query:
        return f"`kinitro db {name}` with the same --database-url"
    return f"`kinitro db {name} --database-url {shlex.quote(url.render_as_string())}`"


def _not_a_url(problem: str) -> ConfigurationError:
    return ConfigurationError(f"{problem}.", advice="Write it as postgresql://user:password@host:port/name.")


@asynccontextmanager
async def open_place(place: Place) -> AsyncIterator[Database]:
    """A pool of connections to one place. The schema is not checked."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=place.connect,
        pool_size=10,
        max_overflow=10,
        pool_timeout=10,
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    try:
        yield Database(engine, place.shown)
    finally:
        await asyncio.shield(engine.dispose())


def _refuse_closed(connection: DBAPIConnection, _record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    """Lets the pool connect anew when the server has gone since, without asking it each time."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _explain(error: Exception, place: Place) -> tuple[str, str]:
    """The cause and the next step, for a person."""
    where = f"{place.url.host}:{place.url.port or 5432}" if place.url.host else str(place.url.query.get("host"))
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return f'there is no database "{place.name}"', _creation_advice(place)
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):  # a wrong password is one of these
        return str(error).rstrip("."), "Check the user and the password in --database-url."
    if isinstance(error, socket.gaierror):
        return f"the host {place.url.host} is not known", "Check the host's name in --database-url."
    if isinstance(error, TimeoutError):
        return f"no answer from {where} within {_CONNECT_TIMEOUT_S:g} s", "Check the address and the firewall."
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return f"nothing listens at {where}", "Check that PostgreSQL runs there, or correct --database-url."
    return str(error).rstrip(".") or type(error).__name__, "Check that PostgreSQL runs, and --database-url."


def _creation_advice(place: Place) -> str:
    return f"Create it with {place.command('create' if place.revive is None else 'init')}."


@contextmanager
def _losses_translated(url: str) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise DatabaseUnreachable(
            f"The connection to the database {url} was lost.", advice="Check that PostgreSQL runs; then try again."
        ) from error
    except PoolTimeout as error:
        raise DatabaseUnreachable(
            f"All connections to the database {url} are in use.", advice="Try again in a moment."
        ) from error

"""One PostgreSQL for the run, migrated once; each test gets its own copy of the migrated database.

`KINITRO_TEST_DATABASE_URL` names another server to test against; its user must be allowed to create databases.
"""

import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from kinitro.storage import admin
from kinitro.storage.database import Database, located, open_database

_numbers = itertools.count()


@dataclass(frozen=True)
class DatabaseServer:
    """A server on which tests make databases. `template` is the migrated one they are copied from."""

    url: str
    template: str

    def url_of(self, name: str) -> str:
        base, _, query = self.url.partition("?")
        return f"{base.rsplit('/', 1)[0]}/{name}" + (f"?{query}" if query else "")

    async def run(self, statement: str) -> None:
        async with located(self.url_of("postgres")) as place:
            connection = await place.connect()
            try:
                await connection.execute(statement)
            finally:
                await connection.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def database_server() -> AsyncIterator[DatabaseServer]:
    """A running server with a migrated template database."""
    name = f"kinitro_template_{os.getpid()}"
    given = os.environ.get("KINITRO_TEST_DATABASE_URL")
    # Not pytest's own: other runs of pytest clean those up.
    with tempfile.TemporaryDirectory(prefix="kinitro-test-") as home:
        async with located(given, home=Path(home)) as place:
            server = DatabaseServer(place.url.render_as_string(hide_password=False), name)
            await admin.create(server.url_of(name))
            await admin.init(server.url_of(name))
            yield server
            await admin.drop(server.url_of(name))


@pytest_asyncio.fixture
async def empty_database_url(database_server: DatabaseServer) -> AsyncIterator[str]:
    """The URL of an empty database of this test's own."""
    name = f"kinitro_test_{os.getpid()}_{next(_numbers)}"
    await database_server.run(f"create database {name} template template0")
    yield database_server.url_of(name)
    await admin.drop(database_server.url_of(name))


@pytest_asyncio.fixture
async def database_url(database_server: DatabaseServer) -> AsyncIterator[str]:
    """The URL of a migrated, otherwise empty database of this test's own."""
    name = f"kinitro_test_{os.getpid()}_{next(_numbers)}"
    await database_server.run(f"create database {name} template {database_server.template}")
    yield database_server.url_of(name)
    await admin.drop(database_server.url_of(name))


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The same, opened."""
    async with open_database(database_url) as opened:
        yield opened


@pytest.fixture
def kinitro_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A `KINITRO_HOME` of this test's own."""
    monkeypatch.setenv("KINITRO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"

"""The embedded server with real processes that are killed without warning."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import text

from kinitro.errors import ConfigurationError, DatabaseUnreachable
from kinitro.storage import admin
from kinitro.storage.database import open_database

_USER = """
import asyncio, sys
from pathlib import Path
from kinitro.storage.database import open_database

async def main():
    async with open_database(None, home=Path(sys.argv[1]), check_schema=False) as database:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""

StartUser = Callable[[], Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
def home() -> Iterator[Path]:
    """Not pytest's own directory: other runs of pytest clean those up, and what a server writes there."""
    with tempfile.TemporaryDirectory(prefix="kinitro-test-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
async def start_user(home: Path) -> AsyncIterator[StartUser]:
    """Starts another process that uses the server of `home`, until its standard input closes."""
    users: list[asyncio.subprocess.Process] = []

    async def start() -> asyncio.subprocess.Process:
        user = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _USER, str(home), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        users.append(user)
        assert user.stdout is not None
        assert await asyncio.wait_for(user.stdout.readline(), 60) == b"ready\n"
        return user

    yield start
    for user in users:
        await leave(user)


async def leave(user: asyncio.subprocess.Process) -> None:
    if user.returncode is None:
        await asyncio.wait_for(user.communicate(b""), 60)


async def kill(user: asyncio.subprocess.Process) -> None:
    user.kill()
    await asyncio.wait_for(user.communicate(b""), 60)


def postmaster(home: Path) -> int | None:
    try:
        return int((home / "postgres" / "postmaster.pid").read_text().split()[0])
    except FileNotFoundError:
        return None


@asynccontextmanager
async def written(home: Path) -> AsyncIterator[None]:
    """Something is in the database before, and still there after."""
    await admin.init(None, home=home)
    async with open_database(None, home=home) as database, database.begin() as connection:
        await connection.execute(text("insert into notices (topic, text) values ('kept', 'yes')"))
    yield
    async with open_database(None, home=home) as database, database.connect() as connection:
        assert await connection.scalar(text("select text from notices where topic = 'kept'")) == "yes"


async def test_the_server_is_shared_and_stops_when_the_last_user_leaves(home: Path, start_user) -> None:
    first, second = await asyncio.gather(start_user(), start_user())
    pid = postmaster(home)
    await leave(first)
    assert postmaster(home) == pid
    await admin.init(None, home=home)
    await leave(second)
    assert postmaster(home) is None


async def test_killing_whoever_started_it_disturbs_nobody(home: Path, start_user) -> None:
    async with written(home):
        first = await start_user()
        pid = postmaster(home)
        second = await start_user()
        await kill(first)
        assert postmaster(home) == pid
        await admin.status(None, home=home)
        await leave(second)
        assert postmaster(home) is None


async def test_after_the_last_user_was_killed_the_next_one_joins_and_stops_it(home: Path, start_user) -> None:
    async with written(home):
        await kill(await start_user())
        assert postmaster(home) is not None
        await leave(await start_user())
        assert postmaster(home) is None


async def test_a_killed_server_is_started_again_by_whoever_still_uses_it(home: Path) -> None:
    async with written(home), open_database(None, home=home) as database:
        pid = postmaster(home)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await answers_again(database)
        # Its backends may have answered a last time before they noticed.
        while postmaster(home) in (None, pid):
            await answers_again(database)
        await answers_again(database)


async def answers_again(database) -> None:
    """Within half a minute. A ping gives up after 5 s, while the server may still read its log."""
    async with asyncio.timeout(30):
        while True:
            await asyncio.sleep(0.1)
            with suppress(DatabaseUnreachable):
                return await database.ping()


async def test_a_pid_file_that_names_a_stranger_does_not_stop_the_start(home: Path) -> None:
    async with written(home):
        lines = [str(os.getppid()), str(home / "postgres"), "1", "5432", str(home), "", "1 1", "ready"]
        (home / "postgres" / "postmaster.pid").write_text("\n".join(lines) + "\n")


async def test_a_creation_that_was_cut_short_is_begun_again(home: Path) -> None:
    (home / "postgres.new").mkdir()
    (home / "postgres.new" / "PG_VERSION").write_text("18\n")
    async with written(home):
        pass


async def test_a_home_too_deep_for_a_socket_works_all_the_same(home: Path) -> None:
    deep = home / ("d" * 60) / ("e" * 60)
    async with written(deep), open_database(None, home=deep) as database:
        await database.ping()


async def test_a_cluster_of_another_version_is_left_alone_and_named(home: Path) -> None:
    (home / "postgres").mkdir()
    (home / "postgres" / "PG_VERSION").write_text("12\n")
    with pytest.raises(ConfigurationError, match="cluster of 12"):
        await admin.init(None, home=home)


async def test_without_a_schema_the_embedded_database_asks_for_init(home: Path) -> None:
    with pytest.raises(DatabaseUnreachable, match="kinitro db init"):
        async with open_database(None, home=home):
            pass

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from kinitro.client import KinitroClient, SetBy
from kinitro.errors import ApiError, ApiUnreachable, ConfigurationError
from kinitro.schemas import LeaseRef


@pytest.fixture
async def outage(database_url: str) -> AsyncIterator["Wire"]:
    """The test's database behind a wire that can be cut."""
    wire = Wire(database_url)
    await wire.mend()
    yield wire
    await wire.cut()


class Wire:
    """Forwards TCP connections to the database until it is cut."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        query = parse_qs(parts.query)
        self._name = parts.path
        self._user = parts.netloc.rpartition("@")[0] or "postgres"
        self._socket = f"{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}" if "host" in query else None
        self._address = (parts.hostname, parts.port or 5432)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._port = 0

    @property
    def url(self) -> str:
        return f"postgresql://{self._user}@127.0.0.1:{self._port}{self._name}"

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0.05)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = asyncio.open_unix_connection(self._socket) if self._socket else asyncio.open_connection(*self._address)
        far_reader, far_writer = await there
        self._open |= {writer, far_writer}
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._open -= {writer, far_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_the_client_takes_an_executor_through_a_whole_cycle(world, database_url, start_api) -> None:
    cycle_id = await world.plan()
    async with start_api(database_url) as api, KinitroClient(api.url) as client:
        tasks = (await client.fetch("executor-a", 100)).tasks
        leases = [LeaseRef(task_uuid=task.task_uuid, lease_token=task.lease_token) for task in tasks]
        assert len((await client.heartbeat("executor-a", leases)).extended) == 8
        assert (await client.release("executor-a", leases[:1])).released == [tasks[0].task_uuid]
        again = (await client.fetch("executor-a", 1, ["metaworld/reach-v3"])).tasks
        answer = await client.submit("executor-a", [world.outcome(task) for task in [*tasks[1:], *again]])
        assert (answer.accepted, answer.rejected) == (8, 0)
        assert (await client.stats()).completed_tasks == 8
        await world.complete()
        assert (await client.status()).last_completed_cycle.id == cycle_id
        assert (await client.stats(cycle_id)).total_tasks == 8
        assert [miner.uid for miner in await client.miners()] == [0, 1, 2, 3]
        assert len(await client.environments()) == 2
        assert [cycle.id for cycle in await client.cycles()] == [cycle_id]
        assert (await client.scores()) == (await client.scores(cycle_id))
        assert (await client.weights()).weights == {0: 1.0}
        assert (await client.weights(130)).cycle_id == cycle_id
        assert len((await client.export(cycle_id)).episodes) == 8
        assert (await client.health()).status == "ok"


async def test_the_client_says_what_the_api_said(database_url, start_api) -> None:
    async with start_api(database_url, KINITRO_API_API_KEY="sesame") as api:
        async with KinitroClient(api.url, "wrong") as client:
            with pytest.raises(ApiError, match="KINITRO_EXECUTOR_API_KEY") as caught:
                await client.fetch("a", 1)
            assert caught.value.status_code == 401
            assert "sesame" not in str(caught.value)
            with pytest.raises(ApiError, match="No cycle has completed yet") as caught:
                await client.scores()
            assert caught.value.status_code == 404
            with pytest.raises(ApiError, match=r"path\.cycle_id: Input should be") as caught:
                await client.export(0)
            assert caught.value.status_code == 422
        async with KinitroClient(api.url, "sesame") as client:
            assert (await client.fetch("a", 1)).tasks == []


async def test_the_client_says_that_nothing_answers(free_port: int) -> None:
    for url in (f"http://127.0.0.1:{free_port}", "http://no-such-host.invalid:8000"):
        async with KinitroClient(url) as client:
            with pytest.raises(ApiUnreachable, match=url) as caught:
                await client.stats()
            assert "kinitro api" in str(caught.value)
    async with KinitroClient(url, set_by=SetBy.EXECUTOR) as client:
        with pytest.raises(ApiUnreachable, match=r"Check that `kinitro api` runs there.*KINITRO_EXECUTOR_API_URL"):
            await client.stats()


async def test_the_client_gives_up_on_an_api_that_never_answers() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stop.wait()
        writer.close()

    stop = asyncio.Event()
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with KinitroClient(f"http://127.0.0.1:{port}", timeout_s=0.2) as client:
            with pytest.raises(ApiUnreachable, match="did not answer in time"):
                await client.stats()
        stop.set()


@pytest.mark.parametrize(
    "reply",
    [b"HTTP/1.1 200 OK\r\n\r\n<html>", b"HTTP/1.1 404 Not Found\r\n\r\n<html>", b'HTTP/1.1 200 OK\r\n\r\n{"a": 1}'],
)
async def test_the_client_tells_another_server_from_our_api(reply: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, KinitroClient(url) as client:
        with pytest.raises(ApiError, match="is not a Kinitro API"):
            await client.stats()


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://localhost", "http://", "http://[::1", "http://localhost:port", ""]
)
def test_the_client_refuses_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the address of a Kinitro API"):
        KinitroClient(url)


async def test_while_the_database_is_away_every_route_says_so_and_then_recovers(outage, start_api) -> None:
    async with start_api(outage.url) as api, httpx.AsyncClient(base_url=api.url, timeout=20) as http:
        assert (await http.get("/health")).json()["status"] == "ok"
        await outage.cut()
        answer = await http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
        fetch = {"executor_id": "a", "batch_size": 1}
        for answer in (await http.get("/v1/status"), await http.post("/v1/tasks/fetch", json=fetch)):
            assert answer.status_code == 503
            assert answer.json()["detail"].startswith("The database does not answer.")
            assert "postgresql://" not in answer.text
        assert "kinitro_database_up 0.0" in (await http.get("/metrics")).text
        async with KinitroClient(api.url) as client:
            assert (await client.health()).database == "unreachable"
        await outage.mend()
        assert (await http.post("/v1/tasks/fetch", json=fetch)).status_code == 200
        assert (await http.get("/health")).status_code == 200
        api.process.terminate()
        _, log = await api.process.communicate()
        assert b"Traceback" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly_and_quickly(database_url, start_api, number: signal.Signals) -> None:
    async with start_api(database_url) as api, KinitroClient(api.url) as client:
        await client.stats()
        api.process.send_signal(number)
        async with asyncio.timeout(5):
            assert await api.process.wait() == 0
        log = (await api.process.stderr.read() + await api.process.stdout.read()).decode()
        assert "Traceback" not in log
        assert "api_stopped" in log


async def test_a_port_in_use_is_one_line_that_names_the_port_and_the_flag(database_url, free_port, spawn_api) -> None:
    async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", free_port):
        process = await spawn_api({"KINITRO_API_DATABASE_URL": database_url, "KINITRO_API_PORT": str(free_port)})
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().splitlines()[-1] == (
        f"The API can't listen on port {free_port} of 127.0.0.1: Address already in use. "
        "Stop what uses it, or choose another port with --port."
    )


async def test_no_auth_on_a_public_bind_is_refused_before_anything_is_opened(spawn_api) -> None:
    process = await spawn_api({"KINITRO_API_HOST": "0.0.0.0", "KINITRO_API_NO_AUTH": "true"})
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"--no-auth is refused on --host 0.0.0.0" in errors


async def test_an_unknown_host_to_listen_on_is_one_line(spawn_api) -> None:
    process = await spawn_api({"KINITRO_API_HOST": "no-such-host.invalid"})
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"--host no-such-host.invalid is not an address of this machine" in errors


async def test_a_forged_forwarding_header_never_makes_a_caller_local(database_url, start_api) -> None:
    async with start_api(database_url) as api, httpx.AsyncClient(base_url=api.url) as http:
        headers = {"X-Forwarded-For": "127.0.0.1"}
        answer = await http.post("/v1/tasks/fetch", json={"executor_id": "a", "batch_size": 1}, headers=headers)
        assert answer.status_code == 403


async def test_a_refused_caller_reads_why_even_when_its_body_follows_late(database_url, start_api) -> None:
    async with start_api(database_url, KINITRO_API_API_KEY="sesame") as api:
        answer = await asyncio.to_thread(_send_head_then_body, urlsplit(api.url).port)
    assert answer.startswith(b"HTTP/1.1 401")


def _send_head_then_body(port: int) -> bytes:
    # As python-requests does; a server that closes in between resets the connection and its answer is lost.
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"POST /v1/tasks/fetch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n")
        time.sleep(0.2)
        connection.sendall(b" " * 100_000)
        time.sleep(0.2)
        connection.sendall(b" " * 100_000)
        return connection.recv(1000)

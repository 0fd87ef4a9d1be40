import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import h11
import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

import kinitro.policy.server

Handler = Callable[[str, bytes, asyncio.StreamWriter], Awaitable[None]]
SERVER_FILE = Path(kinitro.policy.server.__file__)

HEALTHY = {"status": "healthy", "model_loaded": True, "uptime_seconds": 1.0, "needs_images": False}
RIGHT = {"action": {"continuous": {"ee_twist": [1.0, 0, 0, 0, 0, 0]}}}


def http_reply(document: object, *, status: str = "200 OK", headers: str = "") -> bytes:
    """A whole HTTP reply with a JSON body."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


async def _serve_connection(handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = h11.Connection(h11.SERVER)
    path, body = "", b""
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                path, body = event.target.decode(), b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                await handler(path, body, writer)
                await writer.drain()
                if writer.is_closing():
                    return
                # The bytes went out behind h11's back: a fresh state for the next request on this connection.
                connection = h11.Connection(h11.SERVER)
            else:
                return
    except (OSError, h11.RemoteProtocolError):
        return
    finally:
        writer.close()


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_serve_connection(handler, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as exits:
        yield exits


@pytest.fixture
def raw_policy(stack: AsyncExitStack) -> Callable[..., Awaitable[str]]:
    """Starts a policy server that writes what it likes.

    Healthy and resetting as it should unless `everything`; `handler` answers the rest, byte by byte.
    """

    async def start(handler: Handler, *, everything: bool = False, health: dict[str, object] | None = None) -> str:
        async def answer(path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
            if path == "/health" and not everything:
                writer.write(http_reply(HEALTHY | (health or {})))
            elif path == "/reset" and not everything:
                writer.write(http_reply({"status": "ok", "episode_id": "e"}))
            else:
                await handler(path, body, writer)

        return await stack.enter_async_context(raw_server(answer))

    return start


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until_up(url: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(20), httpx.AsyncClient(trust_env=False) as http:
        while process.returncode is None:
            try:
                await http.get(f"{url}/health")
            except httpx.TransportError:
                await asyncio.sleep(0.02)
            else:
                return
    raise AssertionError(f"the server ended with {process.returncode}")


def write_policy(folder: Path, source: str) -> Path:
    (folder / "server.py").write_text(SERVER_FILE.read_text())
    (folder / "policy.py").write_text(source)
    return folder


@asynccontextmanager
async def _policy_process(folder: Path) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "server.py", "--port", str(port), cwd=folder, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until_up(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
def policy_process(
    stack: AsyncExitStack, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Awaitable[tuple[str, asyncio.subprocess.Process]]]:
    """Starts the bundled server.py around this policy.py, as a process of its own: (url, process)."""

    async def start(source: str) -> tuple[str, asyncio.subprocess.Process]:
        folder = write_policy(tmp_path_factory.mktemp("policy"), source)
        return await stack.enter_async_context(_policy_process(folder))

    return start


@asynccontextmanager
async def _served(app: Starlette) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1))
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        while not server.started:  # noqa: ASYNC110 (uvicorn offers no event)
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()


@pytest.fixture
def served(stack: AsyncExitStack) -> Callable[[Starlette], Awaitable[str]]:
    """Serves an application in this process and gives its URL."""

    async def start(app: Starlette) -> str:
        return await stack.enter_async_context(_served(app))

    return start

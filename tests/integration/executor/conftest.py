import asyncio
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import structlog

from kinitro.backends.process import ProcessBackend
from kinitro.deployments.snapshots import SnapshotStore
from kinitro.environments.base import EnvironmentSpec
from kinitro.testing.line_world import LINE_REACH
from kinitro.types import PolicyRef

from ...executors import executing  # noqa: TID252 - one for all tests
from .fake_api import FakeApi

POLICY_SERVER = """
import json, os, sys, threading, time, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HEALTH = {"status": "healthy", "model_loaded": True, "uptime_seconds": 0.0, "needs_images": False}

def act(obs):
    return {"continuous": {}}

def reset(task):
    pass

#BEHAVIOUR#

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(HEALTH)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/reset":
            reset(body["task_config"])
            self.answer({"status": "ok", "episode_id": str(uuid.uuid4())})
        else:
            self.answer({"action": act(body["obs"])})

    def answer(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass

host, port = sys.argv[2], int(sys.argv[4])
ThreadingHTTPServer((host, port), Handler).serve_forever()
"""

AddPolicy = Callable[..., PolicyRef]


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots")


@pytest.fixture
def add_policy(tmp_path: Path, store: SnapshotStore) -> AddPolicy:
    """Puts a policy with the given behaviour (Python lines) into the store, without a hub."""

    def add(behaviour: str = "", name: str = "policy") -> PolicyRef:
        folder = tmp_path / "policies" / name
        folder.mkdir(parents=True)
        source = POLICY_SERVER.replace("#BEHAVIOUR#", textwrap.dedent(behaviour))
        (folder / "server.py").write_text(source)
        return store.add_local(folder, f"tests/{name}")

    return add


@pytest.fixture
async def backend() -> AsyncIterator[ProcessBackend]:
    async with ProcessBackend() as backend:
        yield backend


RIGHT = "def act(obs):\n    return {'continuous': {'ee_twist': [1.0, 0, 0, 0, 0, 0]}}\n"
"""The behaviour of a policy that always reaches the line world's goal."""
LINE_SERVER = Path(__file__).with_name("line_server.py")


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    api = FakeApi()
    await api.come()
    yield api
    await api.go()


@pytest.fixture
def switches(tmp_path: Path) -> Path:
    """A folder whose files break the environment servers (see `line_server.py`)."""
    folder = tmp_path / "switches"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `KINITRO_HOME` whose snapshots are those of `store`."""
    monkeypatch.setenv("KINITRO_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def run_executor(
    api: FakeApi, home: Path, switches: Path
) -> Callable[..., AbstractAsyncContextManager[asyncio.Task[None]]]:
    """Runs an executor in this process for the length of a block; leaving it asks it to end, in order."""

    @asynccontextmanager
    async def run(
        environments: Sequence[EnvironmentSpec] = (LINE_REACH,), **changes: object
    ) -> AsyncIterator[asyncio.Task[None]]:
        chosen = {
            "api_url": api.url, "executor_id": "test", "eval_mode": "process", "max_concurrent": 2, "batch_size": 4,
            "poll_interval_seconds": 0.1, "miner_deployment_warmup_timeout": 10.0, "action_timeout": 2.0,
            "eval_timeout": 20.0, "shutdown_grace_seconds": 5.0,
        } | changes  # fmt: skip
        server = (sys.executable, str(LINE_SERVER), "{host}", "{port}", str(switches))
        async with executing(chosen, environments=environments, environment_server=server) as task:
            yield task

    return run


@pytest.fixture
def events() -> Iterator[list[MutableMapping[str, object]]]:
    with structlog.testing.capture_logs() as events:
        yield events


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - it looks at other processes
            await asyncio.sleep(0.02)

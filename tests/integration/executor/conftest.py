import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kinitro.backends.process import ProcessBackend
from kinitro.deployments.snapshots import SnapshotStore
from kinitro.types import PolicyRef

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

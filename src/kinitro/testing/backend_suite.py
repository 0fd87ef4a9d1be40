"""What every backend must keep, as tests. A backend's test class inherits these and gives a `backend` fixture."""
# ruff: noqa: ASYNC110, D102 - it polls real processes; the names are the sentences

import asyncio
import contextlib
import json
import textwrap
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from kinitro.backends.base import Backend, LaunchSpec, Limits, Role, Running
from kinitro.errors import InfrastructureError

SERVER = '''
import json, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/exit":
            os._exit(3)
        if self.path == "/flood":
            for number in range(40_000):
                print("flood", number, "x" * 50)
        if self.path == "/child":
            subprocess.Popen([sys.executable, "-c", DAEMON, "child.pid"], cwd=os.environ["HOME"])
            while not os.path.exists(os.path.join(os.environ["HOME"], "child.pid")):
                time.sleep(0.01)
        body = json.dumps({"environment": dict(os.environ), "directory": os.getcwd(), "home": os.environ["HOME"]})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass

DAEMON = """
import os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
with open("tmp", "w") as file:
    file.write(str(os.getpid()))
os.rename("tmp", sys.argv[1])
time.sleep(600)
"""
print("listening", flush=True)
HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
'''


async def get(running: Running, path: str = "") -> Mapping[str, object]:
    """One GET, off the loop; `OSError` when nobody answers."""
    headers = {} if running.authorization is None else {"Authorization": running.authorization}

    def read() -> Mapping[str, object]:
        request = urllib.request.Request(running.url + path, headers=headers)  # noqa: S310 - the suite's own server
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310 - the suite's own server
            answer: Mapping[str, object] = json.load(reply)
            return answer

    return await asyncio.to_thread(read)


async def until_answering(running: Running, timeout_s: float = 20.0) -> Mapping[str, object]:
    """The first answer of a server that is starting."""
    async with asyncio.timeout(timeout_s):
        while True:
            with contextlib.suppress(OSError):
                return await get(running)
            await asyncio.sleep(0.02)


async def until_exited(running: Running, timeout_s: float = 10.0) -> int:
    """Its exit code, once it has ended."""
    async with asyncio.timeout(timeout_s):
        while (code := await running.exit_code()) is None:
            await asyncio.sleep(0.02)
    return code


class BackendSuite:
    """Inherit as `class TestMyBackend(BackendSuite)` and define the `backend` fixture."""

    python = "python3"
    """The interpreter's name where the command runs."""

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend under test."""
        raise NotImplementedError

    @pytest.fixture
    def spec(self, tmp_path: Path) -> LaunchSpec:
        """A small HTTP server."""
        (tmp_path / "server.py").write_text(textwrap.dedent(SERVER))
        return LaunchSpec(
            name="test server",
            role=Role.POLICY,
            command=(self.python, "server.py", "{host}", "{port}"),
            directory=tmp_path,
            environment={"GIVEN": "value"},
            limits=Limits(memory_bytes=2**30, cpus=1.0),
        )

    async def test_a_started_server_answers_at_its_url(self, backend: Backend, spec: LaunchSpec) -> None:
        running = await backend.launch(spec)
        await until_answering(running)
        assert await running.exit_code() is None
        assert not running.url.endswith("/")

    async def test_it_gets_its_own_environment_and_none_of_ours(
        self, backend: Backend, spec: LaunchSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        answer = await until_answering(await backend.launch(spec))
        environment = answer["environment"]
        assert isinstance(environment, dict)
        assert environment["GIVEN"] == "value"
        assert "hf_secret" not in environment.values()

    async def test_many_start_at_once_each_on_its_own_port(self, backend: Backend, spec: LaunchSpec) -> None:
        runs = await asyncio.gather(*(backend.launch(spec) for _ in range(5)))
        await asyncio.gather(*(until_answering(run) for run in runs))
        assert len({run.url for run in runs}) == len({run.identity for run in runs}) == 5

    async def test_stopping_leaves_nothing_that_answers_and_may_be_repeated(
        self, backend: Backend, spec: LaunchSpec
    ) -> None:
        running = await backend.launch(spec)
        await until_answering(running)
        await running.stop()
        await running.stop()
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            await get(running)
        assert await running.exit_code() is not None

    async def test_an_exit_is_seen_with_its_code_and_last_output(self, backend: Backend, spec: LaunchSpec) -> None:
        running = await backend.launch(spec)
        await until_answering(running)
        with contextlib.suppress(OSError):
            await get(running, "/exit")
        assert await until_exited(running) == 3
        assert "listening" in await running.logs()

    async def test_endless_output_neither_blocks_it_nor_grows_its_log(self, backend: Backend, spec: LaunchSpec) -> None:
        running = await backend.launch(spec)
        await until_answering(running)
        await get(running, "/flood")
        async with asyncio.timeout(10):
            while "flood 39999" not in await running.logs(5):
                await asyncio.sleep(0.05)
        assert len(await running.logs(10**6)) < 2 * 10**6
        assert len((await running.logs(5)).splitlines()) == 5

    async def test_a_command_that_does_not_exist_is_our_fault(self, backend: Backend, spec: LaunchSpec) -> None:
        broken = LaunchSpec(name="nothing", role=Role.ENVIRONMENT, command=("/no/such",), directory=spec.directory)
        with pytest.raises(InfrastructureError, match="nothing can't be started"):
            await backend.launch(broken)

    async def test_closing_stops_everything(self, backend: Backend, spec: LaunchSpec) -> None:
        runs = [await backend.launch(spec) for _ in range(2)]
        for run in runs:
            await until_answering(run)
        await backend.close()
        for run in runs:
            assert await run.exit_code() is not None

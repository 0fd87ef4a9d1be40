"""The doctor as a user runs it: a process of its own, with an environment and a data directory of its own."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kinitro.cli.app import app
from kinitro.testing.hub import LocalHub, serving

NOT_OURS = ("KINITRO_", "BT_", "HF_", "BASILICA_", "DOCKER_")


@dataclass(frozen=True)
class Visit:
    """What one run of the doctor said."""

    code: int
    stdout: str
    stderr: str

    @property
    def findings(self) -> dict[tuple[str, str], dict[str, str]]:
        """By role and subject; of two with one subject the worse."""
        rank = ("ok", "skipped", "warning", "failed")
        found: dict[tuple[str, str], dict[str, str]] = {}
        for section in json.loads(self.stdout)["sections"]:
            for one in section["findings"]:
                key = (section["role"], one["subject"])
                if key not in found or rank.index(one["verdict"]) > rank.index(found[key]["verdict"]):
                    found[key] = one
        return found

    def verdict(self, role: str, subject: str) -> str:
        return self.findings[role, subject]["verdict"]

    def said(self, role: str, subject: str) -> str:
        one = self.findings[role, subject]
        return f"{one['text']} {one['advice'] or ''}"


Doctor = Callable[..., Awaitable[Visit]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where KINITRO_HOME points; it does not exist yet."""
    return tmp_path / "kinitro-home"


@pytest.fixture
def variables(tmp_path: Path, home: Path) -> dict[str, str]:
    """The environment of a newcomer, who has configured nothing; the hub is away."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    return clean | {"HOME": str(tmp_path), "KINITRO_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture
def run(tmp_path: Path, variables: dict[str, str]) -> Callable[..., Awaitable[Visit]]:
    """Any command, as a process."""

    async def run(*arguments: str, **more: str) -> Visit:
        command = [sys.executable, "-m", "kinitro", *arguments]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, env=variables | more, cwd=tmp_path, stdout=pipe, stderr=pipe
        )
        stdout, stderr = await process.communicate()
        return Visit(process.returncode or 0, stdout.decode(), stderr.decode())

    return run


@pytest.fixture
def doctor(tmp_path: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """`kinitro doctor --json` in this process, which has imported the slow SDKs already.

    Drawing is taken for granted, and no engine answers (by TCP: a unix socket that is missing leaks in the SDK).
    """
    variables = variables | {"DOCKER_HOST": "tcp://127.0.0.1:9"}
    monkeypatch.setattr("kinitro.environments.gl.working_library", lambda: "osmesa")
    monkeypatch.chdir(tmp_path)

    async def visit(*arguments: str, **more: str) -> Visit:
        with pytest.MonkeyPatch.context() as patch:
            for name in os.environ.keys() - variables.keys():
                patch.delenv(name)
            for name, value in (variables | more).items():
                patch.setenv(name, value)
            done = await asyncio.to_thread(CliRunner().invoke, app, ["doctor", "--json", *arguments])
        assert isinstance(done.exception, SystemExit | None), done.exception
        return Visit(done.exit_code, done.stdout, done.stderr)

    return visit


@pytest.fixture
async def hub_url(tmp_path: Path) -> AsyncIterator[str]:
    async with serving(LocalHub(tmp_path / "hub", {"hf_mine": "me"})) as url:
        yield url


@asynccontextmanager
async def server_that_says(date: str | None) -> AsyncIterator[str]:
    """A server whose answers carry this Date header; its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        header = f"Date: {date}\r\n" if date is not None else ""
        writer.write(f"HTTP/1.1 200 OK\r\n{header}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

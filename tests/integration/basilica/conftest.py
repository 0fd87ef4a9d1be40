"""Basilica mode against the local stand-in, through the unmodified SDK; environments are of the line world."""

import asyncio
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from pydantic import SecretStr

from kinitro.backends.basilica import BasilicaBackend, BasilicaSettings
from kinitro.backends.process import ProcessBackend
from kinitro.deployments.pod import pod_program
from kinitro.testing import hub
from kinitro.testing.basilica import LocalBasilica, serving
from kinitro.testing.line_world import LINE_REACH
from kinitro.types import PolicyRef

from ...executors import executing  # noqa: TID252 - one for all tests
from ..executor.conftest import LINE_SERVER, POLICY_SERVER  # noqa: TID252 - one policy and one world for all
from ..executor.fake_api import FakeApi  # noqa: TID252 - one stand-in for all

TOKEN = "basilica_0123456789"
RUNNER = "kinitro/miner-runner:v1"
LINE_IMAGE = "kinitro/line:v1"
READ_TOKEN = "hf_readonly0123456789"

Upload = Callable[..., PolicyRef]
RunExecutor = Callable[..., AbstractAsyncContextManager[asyncio.Task[None]]]


@pytest.fixture
def switches(tmp_path: Path) -> Path:
    """A folder whose files break the environment servers (see `line_server.py`)."""
    folder = tmp_path / "switches"
    folder.mkdir()
    return folder


@pytest.fixture
async def basilica(tmp_path: Path, switches: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalBasilica]:
    """The stand-in, up, with `BASILICA_API_URL` set."""
    images: dict[str, Sequence[str]] = {
        LINE_IMAGE: (sys.executable, str(LINE_SERVER), "127.0.0.1", "{port}", str(switches)),
        RUNNER: (),
    }
    folder = tmp_path / "pods"
    folder.mkdir()
    async with ProcessBackend() as processes:
        standing_in = LocalBasilica(processes, folder, token=TOKEN, images=images)
        async with serving(standing_in) as url:
            monkeypatch.setenv("BASILICA_API_URL", url)
            monkeypatch.setenv("BASILICA_API_TOKEN", TOKEN)
            yield standing_in


@pytest.fixture
async def model_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[hub.LocalHub]:
    """A hub with one owner `tests`, and a token that can only read."""
    local = hub.LocalHub(tmp_path / "hub", {"hf_write": "tests", READ_TOKEN: "tests"})
    local.access[READ_TOKEN] = {"role": "read"}
    async with hub.serving(local) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield local


@pytest.fixture
def upload(model_hub: hub.LocalHub) -> Upload:
    """Puts a policy with the given behaviour (Python lines) on the hub."""

    def put(behaviour: str = "", name: str = "policy", *, private: bool = False, **files: bytes) -> PolicyRef:
        source = POLICY_SERVER.replace("#BEHAVIOUR#", textwrap.dedent(behaviour))
        repo = hub.HubRepo(f"tests/{name}", private)
        contents = {"server.py": source.encode(), "kinitro.json": b'{"hotkey": "5F"}'}
        contents |= {path.replace("__", "."): content for path, content in files.items()}
        revision = model_hub.add_commit(repo, {path: model_hub.keep(data) for path, data in contents.items()})
        return PolicyRef(repo.repo_id, revision)

    return put


@pytest.fixture
def settings(tmp_path: Path, basilica: LocalBasilica) -> BasilicaSettings:
    return BasilicaSettings(
        state=tmp_path,
        token=SecretStr(TOKEN),
        url=basilica.url,
        image=RUNNER,
        program=pod_program,
        hub="http://127.0.0.1:9",
        start_s=20.0,
        first_pause_s=0.05,
    )


@pytest.fixture
async def backend(settings: BasilicaSettings) -> AsyncIterator[BasilicaBackend]:
    async with BasilicaBackend(settings) as backend:
        yield backend


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    api = FakeApi()
    api.lease_s = 30.0
    await api.come()
    yield api
    await api.go()


@pytest.fixture
def run_executor(api: FakeApi, basilica: LocalBasilica, tmp_path: Path, monkeypatch, switches: Path) -> RunExecutor:
    """Runs an executor in this process for the length of a block; leaving it asks it to end, in order."""
    monkeypatch.setenv("KINITRO_HOME", str(tmp_path / "home"))

    @asynccontextmanager
    async def run(**changes: object) -> AsyncIterator[asyncio.Task[None]]:
        chosen = {
            "api_url": api.url, "executor_id": "test", "eval_mode": "basilica", "max_concurrent": 2, "batch_size": 4,
            "poll_interval_seconds": 0.1, "miner_deployment_warmup_timeout": 20.0, "action_timeout": 2.0,
            "eval_timeout": 20.0, "shutdown_grace_seconds": 20.0, "eval_images": {"line": LINE_IMAGE},
        } | changes  # fmt: skip
        server = (sys.executable, str(LINE_SERVER), "{host}", "{port}", str(switches))
        async with executing(chosen, environments=(LINE_REACH,), environment_server=server) as task:
            yield task

    return run


@pytest.fixture
def events() -> Iterator[list[MutableMapping[str, object]]]:
    with structlog.testing.capture_logs() as events:
        yield events


def changed(settings: BasilicaSettings, **changes: object) -> BasilicaSettings:
    return replace(settings, **changes)


async def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - it looks at other processes
            await asyncio.sleep(0.02)

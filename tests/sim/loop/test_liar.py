"""Three executors in real MuJoCo, one of which reports the opposite of what it saw."""

import asyncio
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kinitro.client import KinitroClient
from kinitro.demo import NETUID, enter_miners
from kinitro.errors import ApiError, ApiUnreachable
from kinitro.executor import build_executor
from kinitro.schemas import ResultIn
from kinitro.settings import ExecutorSettings
from kinitro.storage import admin

ENVIRONMENT = "metaworld/drawer-close-v3"
EPISODES = 3
MINERS = 4  # the fifth bundled miner is a copy
DEADLINE_S = 240


def lie(result: ResultIn) -> ResultIn:
    """The opposite of what happened."""
    opposite = not result.success
    return result.model_copy(
        update={"success": opposite, "score": float(opposite), "error": None, "error_kind": None, "record": None}
    )


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a running API, with a scheduler that has every verdict checked."""
    for name, value in {"HOME": tmp_path, "SCHEDULER_AUDIT_RATE": 1.0, "EXECUTOR_MAX_TIMESTEPS": 60}.items():
        monkeypatch.setenv(f"KINITRO_{name}", str(value))
    asyncio.run(enter_miners(tmp_path))
    asyncio.run(admin.init(None))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    cycle = ("--eval-interval", "3600", "--episodes-per-env", str(EPISODES), "--environments", ENVIRONMENT)
    commands = (("api", "--port", str(port)), ("scheduler", "--network", "dev", "--netuid", str(NETUID), *cycle))
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "kinitro", *command], cwd=tmp_path, env=os.environ, stdout=subprocess.DEVNULL
        )
        for command in commands
    ]
    yield f"http://127.0.0.1:{port}"
    for process in running:
        process.terminate()
    for process in running:
        process.wait(timeout=40)


@asynccontextmanager
async def executor(
    api: str, name: str, tell: Callable[[ResultIn], ResultIn] = lambda result: result
) -> AsyncIterator[None]:
    """A real executor that submits what `tell` makes of each result."""
    settings = ExecutorSettings.load(
        api_url=api, executor_id=name, eval_mode="process", max_concurrent=1, poll_interval_seconds=0.3
    )
    async with build_executor(settings) as built:
        honest = built._link.submit
        built._link.submit = lambda results: honest([tell(result) for result in results])
        task = asyncio.create_task(built.run())
        yield
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.timeout(DEADLINE_S + 60)
async def test_of_what_a_liar_says_about_real_episodes_nothing_is_scored(api: str) -> None:
    async with (
        KinitroClient(api) as client,
        executor(api, "liar", lie),
        executor(api, "honest-1"),
        executor(api, "honest-2"),
        asyncio.timeout(DEADLINE_S),
    ):
        await until_completed(client)
        export, status = await client.export(1), await client.status()
    told = Counter(episode.executor_id for episode in export.episodes)
    assert sum(told.values()) == MINERS * EPISODES
    assert told["liar"] == 0
    assert {entry.executor_id for entry in status.quarantined} == {"liar"}
    assert status.audits.contradicted >= 1


async def until_completed(client: KinitroClient) -> None:
    while True:
        try:
            if (await client.status()).last_completed_cycle is not None:
                return
        except (ApiError, ApiUnreachable):
            pass
        await asyncio.sleep(0.5)

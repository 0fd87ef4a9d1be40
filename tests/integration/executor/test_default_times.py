"""How long deployments are kept and waited for when nothing is set: seen on an event loop whose seconds pass faster."""

import asyncio
import os
import selectors
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kinitro.backends import process
from kinitro.deployments import DeploymentManager, SnapshotStore
from kinitro.errors import PolicyError
from kinitro.executor.rig import _deployment_settings
from kinitro.executor.stage import open_stage
from kinitro.settings import ExecutorSettings
from kinitro.testing.line_world import LINE_REACH

PACE = 40
SLACK_S = 600  # fifteen true seconds, for a machine that is busy


class HurriedSelector(selectors.DefaultSelector):
    def select(self, timeout=None):
        return super().select(timeout / PACE if timeout else timeout)


class HurriedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__(HurriedSelector())

    def time(self) -> float:
        return super().time() * PACE


def hurried(work: Coroutine[None, None, float]) -> float:
    with asyncio.Runner(loop_factory=HurriedLoop) as runner:
        return runner.run(work)


@pytest.fixture(autouse=True)
def nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no .env
    for name in [name for name in os.environ if name.startswith("KINITRO_EXECUTOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(process, "_START_TIMEOUT_S", process._START_TIMEOUT_S * PACE)  # true seconds


@asynccontextmanager
async def deploying(store: SnapshotStore) -> AsyncIterator[DeploymentManager]:
    settings = ExecutorSettings.load(eval_mode="process")
    async with open_stage(settings, (LINE_REACH,), None) as stage:
        chosen = _deployment_settings(settings, stage)
        async with DeploymentManager(stage.backend, store, chosen, asyncio.get_running_loop().time) as manager:
            yield manager


def test_an_unused_deployment_is_kept_for_600_seconds(store, add_policy) -> None:
    ref = add_policy()

    async def use() -> float:
        loop = asyncio.get_running_loop()
        async with deploying(store) as manager:
            async with manager.lease(ref, 1) as deployment:
                pass
            used = loop.time()
            while await deployment.running.exit_code() is None:  # noqa: ASYNC110 - it looks at a process
                await asyncio.sleep(1.0)
            return loop.time() - used

    assert 600 <= hurried(use()) < 600 + SLACK_S


def test_a_policy_has_300_seconds_to_get_ready(store, add_policy) -> None:
    ref = add_policy("HEALTH['model_loaded'] = False")

    async def wait() -> float:
        loop = asyncio.get_running_loop()
        async with deploying(store) as manager:
            began = loop.time()
            with pytest.raises(PolicyError, match=r"^Miner deployment not ready after 300 s"):
                async with manager.lease(ref, 1):
                    pass
            return loop.time() - began

    assert 300 <= hurried(wait()) < 300 + SLACK_S

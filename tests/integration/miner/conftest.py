"""A miner's folder, a local hub and a dev ledger; environments are the line world's."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kinitro.chain import DevLedger
from kinitro.miner.check import CheckPlan
from kinitro.miner.folder import create_folder
from kinitro.settings import MinerSettings
from kinitro.testing.hub import LocalHub, serving
from kinitro.testing.line_world import LINE_REACH
from kinitro.types import FolderTemplate

LINE_SERVER = Path(__file__).parents[1] / "executor" / "line_server.py"
RIGHT = """
class Policy:
    needs_images = False
    max_concurrent_episodes = 4

    def reset(self, task, seed):
        return None

    def act(self, obs, state):
        return {"continuous": {"ee_twist": [1.0, 0, 0, 0, 0, 0]}}
"""
"""Always reaches the line world's goal."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy folder from the template, with a policy that knows the line world."""
    create_folder(tmp_path / "policy", FolderTemplate.MINIMAL)
    (tmp_path / "policy" / "policy.py").write_text(RIGHT)
    return tmp_path / "policy"


@pytest.fixture
def line_server(tmp_path: Path) -> tuple[str, ...]:
    """The command of an environment server for the line world."""
    (tmp_path / "switches").mkdir()
    return (sys.executable, str(LINE_SERVER), "{host}", "{port}", str(tmp_path / "switches"))


@pytest.fixture
def plan(line_server: tuple[str, ...]) -> Callable[..., CheckPlan]:
    def plan(*, server: tuple[str, ...] = line_server, episodes: int = 2, **settings: float) -> CheckPlan:
        chosen = MinerSettings.load(**{"warmup_timeout": 20.0, "action_timeout": 2.0} | settings)
        return CheckPlan((LINE_REACH,), episodes, 1, chosen, server)

    return plan


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalHub]:
    """A running hub that `HF_ENDPOINT` names; `HF_TOKEN` is that of the user `me`."""
    hub = LocalHub(tmp_path / "hub", {"hf_mine": "me", "hf_other": "other"})
    async with serving(hub) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        yield hub


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[DevLedger]:
    ledger = DevLedger(tmp_path / "ledger.sqlite", block_s=0.02)
    yield ledger
    await ledger.close()

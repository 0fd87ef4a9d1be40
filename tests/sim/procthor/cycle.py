"""A whole cycle of MetaWorld and ProcTHOR together, the latter on the stand-in: real API, scheduler and executor."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from kinitro.chain import DEV_LEDGER_FILE, DevLedger, dev_signer, format_commitment, open_chain
from kinitro.client import KinitroClient
from kinitro.deployments import SnapshotStore
from kinitro.environments import registry
from kinitro.errors import ApiError, ApiUnreachable
from kinitro.executor import build_executor
from kinitro.miner.folder import write_policy_folder
from kinitro.scheduler.lifecycle import Lifecycle
from kinitro.schemas import CycleExport, SystemStatus
from kinitro.settings import ExecutorSettings, SchedulerSettings
from kinitro.storage import admin, load_export, open_database, try_leadership
from kinitro.testing.procthor import stand_in_specs

ENVIRONMENTS = (registry.find("metaworld/drawer-close-v3"), *stand_in_specs())
SERVER = ("-P", "-m", "kinitro.testing.procthor.server", "--host", "{host}", "--port", "{port}")
EPISODES = 2
NETUID = 3
POLICIES = {
    "idle": """
class Policy:
    needs_images = False

    def reset(self, task, seed):
        return None

    def act(self, obs, state):
        return {"continuous": {}}
""",
    "wanderer": """
import numpy as np


class Policy:
    needs_depth = True

    def reset(self, task, seed):
        return task["env_id"].startswith("procthor/"), np.random.default_rng(seed)

    def act(self, obs, state):
        at_home, random = state
        if not at_home:
            return {"continuous": {"ee_twist": random.uniform(-1, 1, 6)}}
        assert obs["rgb"]["ego"].shape == (224, 224, 3) and obs["depth"]["ego"].shape == (224, 224)
        assert obs["extra"]["instruction"].endswith(".")
        return {
            "continuous": {"aim": random.random(2)},
            "discrete": {"nav": int(random.integers(9)), "interact": int(random.integers(7))},
        }
""",
}


@asynccontextmanager
async def _api(home: Path) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (home / "api.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - a service of its own
            [sys.executable, "-m", "kinitro", "api", "--port", str(port)],
            cwd=home, env=os.environ | {"KINITRO_HOME": str(home)}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 40)


async def run_cycle(home: Path, mode: str, python: str, **changes: object) -> tuple[CycleExport, SystemStatus]:
    """The completed cycle, and the status after it. KINITRO_HOME must be `home`."""
    await admin.init(None)
    await _enter(home)
    settings = SchedulerSettings(network="dev", netuid=NETUID, episodes_per_env=EPISODES, tick_seconds=0.2)
    chosen = {
        "eval_mode": mode, "executor_id": "test", "batch_size": 8, "max_concurrent": 2, "poll_interval_seconds": 0.3,
        "max_timesteps": 25, "action_timeout": 20.0, "eval_timeout": 120.0, "miner_deployment_memory": "1g",
    } | changes  # fmt: skip
    async with _api(home) as url, KinitroClient(url) as client, open_database(None) as database:
        await _answering(client)
        async with open_chain("dev") as chain, try_leadership(database) as connection:
            assert connection is not None
            lifecycle = asyncio.create_task(Lifecycle(connection, chain, settings, ENVIRONMENTS).run())
            executor = asyncio.create_task(_execute(ExecutorSettings.load(api_url=url, **chosen), (python, *SERVER)))
            try:
                status = await _completed(client, lifecycle, executor)
            finally:
                for task in (executor, lifecycle):
                    task.cancel()
                await asyncio.wait({executor, lifecycle})
        async with database.begin() as reading:
            return await load_export(reading, status.last_completed_cycle.id), status


async def _enter(home: Path) -> None:
    """Two miners, and their snapshots in the executor's cache as if it had fetched them."""
    ledger, store = DevLedger(home / DEV_LEDGER_FILE), SnapshotStore(home / "snapshots")
    for name, code in POLICIES.items():
        modules = home / "policies" / name
        modules.mkdir(parents=True)
        (modules / "policy.py").write_text(code)
        write_policy_folder(home / "folders" / name, modules, title=name, about=name)
        signer = dev_signer("test", name)
        await ledger.register(NETUID, signer.ss58_address)
        await ledger.commit(NETUID, format_commitment(store.add_local(home / "folders" / name, f"test/{name}")), signer)
    await ledger.close()


async def _execute(settings: ExecutorSettings, server: Sequence[str]) -> None:
    async with build_executor(settings, environments=ENVIRONMENTS, environment_server=server) as executor:
        await executor.run()


async def _answering(client: KinitroClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await client.health()
                return
            except (ApiError, ApiUnreachable):
                await asyncio.sleep(0.1)


async def _completed(client: KinitroClient, *working: "asyncio.Task[None]") -> SystemStatus:
    async with asyncio.timeout(240):
        while True:
            for task in working:
                if task.done():
                    task.result()
            status = await client.status()
            if status.last_completed_cycle is not None:
                return status
            await asyncio.sleep(0.3)


def check(export: CycleExport, status: SystemStatus) -> None:
    """What must hold of it in every mode."""
    assert export.status == "completed"
    assert export.environment_versions["procthor/v0"].endswith("+standin")
    evaluated = [episode for episode in export.episodes if episode.env_id == "procthor/v0"]
    assert len(evaluated) == len(POLICIES) * EPISODES
    assert [episode.error for episode in export.episodes if episode.error] == []
    assert all(episode.trace_digest and episode.timesteps == 25 for episode in evaluated if not episode.success)
    assert any("unscored, for procthor/v0 ran on a stand-in" in reason for reason in status.reasons), status.reasons

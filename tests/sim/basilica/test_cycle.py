"""A whole cycle in Basilica mode as an operator runs it: real services, the real SDK, a stand-in for the service."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from kinitro.backends.process import ProcessBackend
from kinitro.chain import DEV_LEDGER_FILE, DevLedger, dev_signer, format_commitment
from kinitro.client import KinitroClient
from kinitro.demo import NETUID
from kinitro.demo.miners import MINERS, write_folder
from kinitro.environments import registry
from kinitro.executor import build_executor
from kinitro.schemas import CycleExport, TaskOut
from kinitro.settings import ExecutorSettings
from kinitro.storage import admin
from kinitro.testing import basilica, hub
from kinitro.types import CycleStatus, PolicyRef, TaskStatus

from ...integration.executor.fake_api import FakeApi  # noqa: TID252 - one stand-in for all
from ..machine import EvaluationMachine, until_completed  # noqa: TID252 - one machine for all tests

ENVIRONMENT = "metaworld/drawer-close-v3"
EPISODES = 2
CHOSEN = MINERS[1:4]  # at random, good at one task, good at several
TOKEN = "basilica_0123456789"
READ_TOKEN = "hf_readonly0123456789"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[basilica.LocalBasilica]:
    folder = tmp_path / "pods"
    folder.mkdir()
    images = {"kinitro/metaworld:v1": basilica.ENVIRONMENT_SERVER}
    async with ProcessBackend() as processes:
        local = basilica.LocalBasilica(processes, folder, token=TOKEN, images=images)
        async with basilica.serving(local):
            yield local


@pytest.fixture
async def model_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[hub.LocalHub]:
    local = hub.LocalHub(tmp_path / "hub", {READ_TOKEN: "demo"})
    local.access[READ_TOKEN] = {"role": "read"}
    async with hub.serving(local) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield local


async def enter_miners(home: Path, model_hub: hub.LocalHub) -> None:
    """Each has a private repo on the hub and commits it."""
    ledger = DevLedger(home / DEV_LEDGER_FILE)
    for miner in CHOSEN:
        folder = home / miner.name
        write_folder(miner, folder)
        files = {
            path.relative_to(folder).as_posix(): model_hub.keep(path.read_bytes())
            for path in folder.rglob("*")
            if path.is_file()
        }
        revision = model_hub.add_commit(hub.HubRepo(miner.repo, private=True), files)
        signer = dev_signer("demo", miner.name)
        await ledger.register(NETUID, signer.ss58_address)
        await ledger.commit(NETUID, format_commitment(PolicyRef(miner.repo, revision)), signer)
    await ledger.close()


async def in_process_mode(exported: CycleExport) -> dict[tuple[int, int], tuple[object, ...]]:
    """What the same episodes come to when policies and environments are plain processes."""
    refs = {miner.uid: (miner.repo, miner.revision) for miner in exported.miners}
    api = FakeApi()
    api.lease_s = 30.0
    await api.come()
    keys = {}
    for one in exported.episodes:
        repo, revision = refs[one.uid]
        task = TaskOut(
            task_uuid=uuid4(), lease_token=uuid4(), lease_expires_at=datetime.now(UTC), cycle_id=1, miner_uid=one.uid,
            miner_hotkey="5", miner_repo=repo, miner_revision=revision, env_id=one.env_id, seed=one.seed,
            policy_seed=one.policy_seed, status=TaskStatus.PENDING, created_at=datetime.now(UTC),
        )  # fmt: skip
        api.pending.append(task)
        keys[task.task_uuid] = (one.uid, one.index)
    settings = ExecutorSettings.load(
        api_url=api.url, eval_mode="process", max_concurrent=2, poll_interval_seconds=0.2, max_timesteps=80,
        miner_hf_token=READ_TOKEN,
    )  # fmt: skip
    async with build_executor(settings, environments=[registry.find(ENVIRONMENT)]) as executor:
        working = asyncio.create_task(executor.run())
        async with asyncio.timeout(90):
            while not keys.keys() <= api.results.keys():  # noqa: ASYNC110 - it looks at other processes
                await asyncio.sleep(0.05)
        working.cancel()
        await asyncio.wait({working})
    await api.go()
    return {
        keys[task]: (result.success, result.error_kind, result.trace_digest, result.timesteps, result.tree_digest)
        for task, result in api.results.items()
    }


@pytest.mark.timeout(300)
async def test_a_cycle_in_basilica_mode_comes_to_the_verdicts_of_process_mode_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: basilica.LocalBasilica, model_hub: hub.LocalHub
) -> None:
    monkeypatch.setenv("KINITRO_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {
        "BASILICA_API_URL": service.url,
        "BASILICA_API_TOKEN": TOKEN,
        "HF_ENDPOINT": os.environ["HF_ENDPOINT"],
        "KINITRO_EXECUTOR_MINER_HF_TOKEN": READ_TOKEN,
        "KINITRO_EXECUTOR_EVAL_MEM_LIMIT": "8Gi",
        "KINITRO_EXECUTOR_MAX_CONCURRENT": "2",
    }
    machine = EvaluationMachine(
        tmp_path, settings, port=port, environment=ENVIRONMENT, episodes=EPISODES, eval_mode="basilica"
    )
    await enter_miners(tmp_path, model_hub)
    await admin.init(None)
    for name in ("api", "scheduler", "executor"):
        machine.start_service(name)
    try:
        async with KinitroClient(machine.url) as client:
            async with asyncio.timeout(200):
                cycle = await until_completed(client)
            exported = await client.export(cycle.id)
        assert cycle.status is CycleStatus.COMPLETED, machine.logs()
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"{machine.url}/metrics")).text
    except TimeoutError:
        pytest.fail(f"the cycle was not completed in time\n{machine.logs()}")
    finally:
        await asyncio.to_thread(machine.stop)
    assert service.alive == {}, machine.logs()
    assert 'kind="environment"} ' in metrics
    found = {
        (one.uid, one.index): (one.success, one.error_kind, one.trace_digest, one.timesteps, one.tree_digest)
        for one in exported.episodes
    }
    assert len(found) == len(CHOSEN) * EPISODES
    assert {success for success, *_ in found.values()} == {True, False}
    assert found == await in_process_mode(exported)
    for secret in (TOKEN, READ_TOKEN):
        assert secret not in machine.logs()

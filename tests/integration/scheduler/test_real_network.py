"""The scheduler service on a local Bittensor node and a local hub: who is found, who is not, and how it says so."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from kinitro.chain import format_commitment, open_chain
from kinitro.chain.bittensor import BittensorChain
from kinitro.errors import ConfigurationError
from kinitro.scheduler import serve
from kinitro.schemas import MinerOut, ResultIn, TaskOut
from kinitro.settings import SchedulerSettings
from kinitro.storage import Database, TaskPool
from kinitro.storage import tables as t
from kinitro.storage.reads import list_miners, load_status
from kinitro.testing.hub import HubFault, HubRepo, LocalHub, serving
from kinitro.testing.local_node import NOT_THERE, LocalNode, node_folder, run_node
from kinitro.types import CycleStatus, MinerState, PolicyRef

NETUID = 1


def key(name: str):
    from bittensor.sp_core import Keypair

    return Keypair.create_from_uri(f"//{name}")


def address(name: str) -> str:
    return key(name).ss58_address


@pytest.fixture(autouse=True)
def sdk_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("BTCLI_TOKEN_SYMBOLS_CACHE", str(tmp_path / "symbols.json"))


@pytest.fixture
async def node() -> AsyncIterator[LocalNode]:
    folder = node_folder()
    if folder is None:
        pytest.skip(NOT_THERE)
    async with run_node(folder) as running:
        for name in ("Eve", "Ferdie"):  # Alice, Bob, Charlie and Dave are there from the start
            await running.dev("register", NETUID, f"//{name}")
        yield running


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalHub]:
    hub = LocalHub(tmp_path / "hub")
    async with serving(hub) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield hub


def upload(hub: LocalHub, repo: str, owner: str | None, *, private: bool = False) -> PolicyRef:
    """A repo as `miner deploy` leaves it: a policy, and whose it is."""
    files = {"policy.py": hub.keep(repo.encode())}
    if owner is not None:
        files["kinitro.json"] = hub.keep(json.dumps({"hotkey": address(owner)}).encode())
    return PolicyRef(repo, hub.add_commit(HubRepo(repo, private), files))


async def commit(node: LocalNode, name: str, text: str) -> None:
    async with open_chain(node.url) as chain:
        await chain.commit(NETUID, text, key(name))


def settings(node: LocalNode, database_url: str, **changes: object) -> SchedulerSettings:
    values: dict[str, object] = {
        "database_url": database_url,
        "network": node.url,
        "netuid": NETUID,
        "eval_interval_seconds": 0.0,
        "episodes_per_env": 2,
        "environments": ["metaworld/reach-v3"],
        "tick_seconds": 0.05,
    }
    return SchedulerSettings(**(values | changes))


async def execute(database: Database) -> None:
    """Every episode succeeds, until cancelled."""
    pool = TaskPool(database)
    while True:
        fetched = await pool.fetch("executor", 100, None)
        await pool.submit("executor", [_success(task) for task in fetched.tasks])
        await asyncio.sleep(0.05)


def _success(task: TaskOut) -> ResultIn:
    return ResultIn(
        task_uuid=task.task_uuid,
        lease_token=task.lease_token,
        success=True,
        score=1.0,
        total_reward=1.0,
        timesteps=10,
        policy_seconds=0.1,
    )


@asynccontextmanager
async def running(database: Database, chosen: SchedulerSettings) -> AsyncIterator[None]:
    work = [asyncio.create_task(serve(chosen)), asyncio.create_task(execute(database))]
    try:
        yield
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


async def until(database: Database, condition: Callable[[object], object], read) -> None:
    async with asyncio.timeout(40):
        while True:
            async with database.begin() as connection:
                if condition(await read(connection)):
                    return
            await asyncio.sleep(0.05)


async def completed(connection) -> int:
    query = sa.select(sa.func.count()).where(t.cycles.c.status == CycleStatus.COMPLETED)
    return await connection.scalar(query) or 0


async def miners(database: Database) -> dict[str, MinerOut]:
    async with database.begin() as connection:
        return {miner.hotkey: miner for miner in await list_miners(connection)}


async def test_of_five_wallets_exactly_the_valid_ones_are_found(node, hub, database, database_url) -> None:
    mine = upload(hub, "bob/policy", "Bob")
    also = upload(hub, "charlie/policy", "Charlie")
    bare = upload(hub, "ferdie/policy", None)
    # The thief is first on chain, with the other form and other letters.
    await commit(node, "Dave", f"BOB/Policy:{mine.revision}")
    await commit(node, "Bob", format_commitment(mine))
    await commit(node, "Charlie", f"charlie/policy:{also.revision}")
    await commit(node, "Eve", '{"m":"eve/policy","r":"main"}')
    await commit(node, "Ferdie", format_commitment(bare))
    with capture_logs() as logged:
        async with running(database, settings(node, database_url)):
            await until(database, lambda cycles: cycles >= 2, completed)
    seen = await miners(database)
    assert {hotkey for hotkey, miner in seen.items() if miner.state is MinerState.EVALUATED} == {
        address("Bob"),
        address("Charlie"),
    }
    assert [seen[address(name)].place for name in ("Bob", "Charlie", "Dave")] == [1, 2, None]
    assert f"names another hotkey, {address('Bob')}" in seen[address("Dave")].reason
    assert "'main' is not 40 lower-case hex digits" in seen[address("Eve")].reason
    assert "no kinitro.json" in seen[address("Ferdie")].reason
    loaded = [entry for entry in logged if entry["event"] == "commitments_loaded"]
    assert (loaded[0]["count"], loaded[0]["total_miners"]) == (4, 6)
    rejected = [entry["hotkey"] for entry in logged if entry["event"] == "commitment_rejected"]
    assert sorted(rejected) == sorted(address(name) for name in ("Dave", "Eve", "Ferdie"))


async def test_recommitting_the_same_policy_neither_gains_nor_loses_a_place(node, hub, database, database_url) -> None:
    first, second = upload(hub, "bob/policy", "Bob"), upload(hub, "charlie/policy", "Charlie")
    await commit(node, "Bob", format_commitment(first))
    await commit(node, "Charlie", format_commitment(second))
    async with running(database, settings(node, database_url)):
        await until(database, lambda cycles: cycles >= 1, completed)
    await commit(node, "Bob", format_commitment(first))
    async with running(database, settings(node, database_url)):
        await until(database, lambda cycles: cycles >= 3, completed)
    seen = await miners(database)
    assert [seen[address(name)].place for name in ("Bob", "Charlie")] == [1, 2]


async def test_a_hub_that_is_down_delays_and_says_so_and_is_asked_again(node, hub, database, database_url) -> None:
    await commit(node, "Bob", format_commitment(upload(hub, "bob/policy", "Bob")))
    hub.faults.append(HubFault(status=429))

    async def reasons(connection) -> str:
        return " ".join((await load_status(connection)).reasons)

    async with running(database, settings(node, database_url)):
        await until(database, lambda text: "slow down" in text, reasons)
        async with database.begin() as connection:
            assert await connection.scalar(sa.select(sa.func.count()).select_from(t.cycles)) == 0
        hub.faults.clear()
        await until(database, lambda cycles: cycles >= 1, completed)
        await until(database, lambda text: "hub" not in text, reasons)


async def test_a_chain_that_goes_away_delays_the_cycle_and_says_so_until_it_is_back(
    node, hub, database, database_url, monkeypatch
) -> None:
    await commit(node, "Bob", format_commitment(upload(hub, "bob/policy", "Bob")))
    monkeypatch.setitem(BittensorChain.__init__.__kwdefaults__, "read_deadline_s", 0.5)

    async def reasons(connection) -> str:
        return " ".join((await load_status(connection)).reasons)

    async with running(database, settings(node, database_url)):
        await until(database, lambda cycles: cycles >= 1, completed)
        await node.dev("stall", 4)
        await until(database, lambda text: "did not answer within" in text, reasons)
        async with database.begin() as connection:
            before = await completed(connection)
        await until(database, lambda cycles: cycles > before, completed)
        await until(database, lambda text: "answer" not in text, reasons)
        with contextlib.suppress(ConnectionError):
            await node.dev("drop")
        await until(database, lambda cycles: cycles > before + 1, completed)


async def test_a_subnet_that_does_not_exist_is_said_in_the_status(node, hub, database, database_url) -> None:
    async def reasons(connection) -> str:
        return " ".join((await load_status(connection)).reasons)

    async with running(database, settings(node, database_url, netuid=77)):
        await until(database, lambda text: "There is no subnet 77" in text, reasons)


async def test_without_the_hub_client_a_real_network_is_refused_at_once(node, database_url, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install .\.\[hub\]"):
        await serve(settings(node, database_url))

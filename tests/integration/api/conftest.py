"""A small subnet in a real database, and the API over it: inside the test (any peer address) or as a process."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256

import httpx
import pytest
import pytest_asyncio

from kinitro.api import build_app
from kinitro.client import KinitroClient
from kinitro.errors import ApiUnreachable
from kinitro.schemas import ResultIn, RuleOut, TaskOut
from kinitro.settings import ApiSettings
from kinitro.storage import cycles, line
from kinitro.storage.database import Database
from kinitro.storage.task_pool import PlannedTask, TaskPool, create_tasks
from kinitro.types import ErrorKind, MinerState, PolicyRef

SALT = bytes(range(32))
GENESIS = "0x" + "ab" * 32
ENVIRONMENTS = {"metaworld/reach-v3": "1", "metaworld/push-v3": "1"}
EPISODES = 2
SERVE = """
import asyncio, sys
from kinitro.api import serve
from kinitro.errors import KinitroError
from kinitro.settings import ApiSettings

try:
    asyncio.run(serve(ApiSettings.load()))
except KinitroError as error:
    sys.exit(str(error))
"""


@dataclass(frozen=True)
class World:
    """uid 0 succeeds at everything, uid 1 at nothing, uid 2 is a copy of 0 and uid 3's commitment can't be read."""

    database: Database

    async def plan(
        self, *, running: bool = True, environments: dict[str, str] = ENVIRONMENTS, revision: str = "1"
    ) -> int:
        """A new cycle with its tasks; uid 0's policy has the given revision."""
        async with self.database.begin() as connection:
            await cycles.claim_ledger(connection, GENESIS, 7)
            miners = await self._miners(connection, revision)
            cycle_id = await cycles.insert_plan(connection, _plan(environments, miners))
            await create_tasks(connection, cycle_id, _tasks(environments, miners))
            if running:
                await cycles.mark_running(connection, cycle_id, "0x" + "11" * 32)
        return cycle_id

    async def _miners(self, connection: object, revision: str) -> tuple[cycles.MinerEntry, ...]:
        refs = [
            PolicyRef("alice/policy", revision * 40),
            PolicyRef("bob/policy", "b" * 40),
            PolicyRef("carol/policy", "c" * 40),
        ]
        sightings = [line.Sighting(uid, f"hotkey-{uid}", ref, 10 + uid) for uid, ref in enumerate(refs)]
        known = await line.record_sightings(connection, sightings)
        places = await line.give_places(connection, [known["hotkey-0"].id, known["hotkey-1"].id])
        entries = [
            cycles.MinerEntry(
                uid,
                f"hotkey-{uid}",
                ref,
                10 + uid,
                known[f"hotkey-{uid}"].id,
                places.get(known[f"hotkey-{uid}"].id),
                MinerState.EVALUATED,
            )
            for uid, ref in enumerate(refs[:2])
        ]
        copy = cycles.MinerEntry(
            2, "hotkey-2", refs[2], 12, known["hotkey-2"].id, None, MinerState.COPY, "copy of uid 0"
        )
        unreadable = cycles.MinerEntry(3, "hotkey-3", None, 13, None, None, MinerState.REJECTED, "not JSON")
        return (*entries, copy, unreadable)

    async def run_everything(self) -> None:
        """Every task of the running cycle reaches its verdict."""
        pool = TaskPool(self.database)
        while tasks := (await pool.fetch("executor-a", 100, None)).tasks:
            answer = await pool.submit("executor-a", [self.outcome(task) for task in tasks])
            assert answer.accepted == len(tasks)

    def outcome(self, task: TaskOut) -> ResultIn:
        """What running this task comes to."""
        success = task.miner_uid == 0
        return ResultIn(
            task_uuid=task.task_uuid,
            lease_token=task.lease_token,
            success=success,
            score=float(success),
            total_reward=12.5,
            timesteps=100,
            error=None if success else "fell asleep",
            error_kind=None if success else ErrorKind.POLICY,
            trace_digest="t" * 64,
            tree_digest=f"tree-of-{task.miner_uid}",
            policy_seconds=1.5,
        )

    async def complete(self, *, block: int = 130, weights: bool = True) -> None:
        """Closes the running cycle with uid 0 as the winner of everything."""
        async with self.database.begin() as connection:
            cycle = await cycles.open_cycle(connection)
            assert cycle is not None
            await cycles.complete_cycle(
                connection, cycle, _closing(list(cycle.plan.environments), block if weights else None)
            )

    async def finished_cycle(self, **plan: object) -> int:
        """A cycle from plan to weights."""
        cycle_id = await self.plan(**plan)
        await self.run_everything()
        await self.complete(block=100 + 30 * cycle_id)
        return cycle_id

    async def fail(self, cycle_id: int) -> None:
        """Closes a cycle without scores."""
        async with self.database.begin() as connection:
            await cycles.fail_cycle(connection, cycle_id, "7 % of its tasks got no verdict")


def _plan(environments: dict[str, str], miners: tuple[cycles.MinerEntry, ...]) -> cycles.CyclePlan:
    return cycles.CyclePlan(
        block_number=120,
        netuid=7,
        genesis=GENESIS,
        salt=SALT,
        salt_sha256=sha256(SALT).hexdigest(),
        target_block=123,
        episodes_per_env=EPISODES,
        environments=environments,
        rule=RuleOut(),
        miner_time_budget_s=3600,
        timeout_s=7200,
        task_max_attempts=3,
        miners=miners,
    )


def _tasks(environments: dict[str, str], miners: tuple[cycles.MinerEntry, ...]) -> list[PlannedTask]:
    evaluated = [(miner, miner.ref) for miner in miners if miner.state is MinerState.EVALUATED and miner.ref]
    wanted = [(*miner, env_id, index) for miner in evaluated for env_id in environments for index in range(EPISODES)]
    return [
        PlannedTask(
            uid=miner.uid,
            hotkey=miner.hotkey,
            repo=ref.repo,
            revision=ref.revision,
            env_id=env_id,
            episode_index=index,
            seed=777000 + index,
            policy_seed=888000 + index,
            position=position,
        )
        for position, (miner, ref, env_id, index) in enumerate(wanted)
    ]


def _closing(environments: list[str], block: int | None) -> cycles.Closing:
    rates = [(0, 1.0), (1, 0.0)]
    return cycles.Closing(
        scores=[
            cycles.ScoreRow(uid, f"hotkey-{uid}", env_id, rate, 12.5, EPISODES, 0, 0.0, 1.0)
            for uid, rate in rates
            for env_id in environments
        ],
        pareto_frontier=[0],
        prizes={"crown": 0},
        points={0: 6},
        bits={(uid, env_id): (b"\x03", b"\x03" if rate else b"\x00") for uid, rate in rates for env_id in environments},
        copies={},
        weights=None
        if block is None
        else cycles.PublishedWeights(
            block_number=block,
            expires_at_block=block + 7200,
            weights={0: 1.0},
            u16_uids=[0],
            u16_values=[65535],
            hotkeys={0: "hotkey-0"},
            notes={"points": {"0": 6}},
        ),
    )


@pytest.fixture
def world(database: Database) -> World:
    """A migrated database with nothing in it yet, and the means to fill it."""
    return World(database)


ClientOf = Callable[..., httpx.AsyncClient]


@pytest_asyncio.fixture
async def client_of(database: Database) -> AsyncIterator[ClientOf]:
    """Makes HTTP clients of an API in this process, which sees them come from any address."""
    opened: list[httpx.AsyncClient] = []

    def make(
        *, peer: str = "127.0.0.1", base_url: str = "http://localhost:8000", **settings: object
    ) -> httpx.AsyncClient:
        app = build_app(database, ApiSettings.load(**settings))
        transport = httpx.ASGITransport(app, client=(peer, 40000), raise_app_exceptions=False)
        opened.append(httpx.AsyncClient(transport=transport, base_url=base_url))
        return opened[-1]

    yield make
    for client in opened:
        await client.aclose()


@pytest.fixture
def http(client_of: ClientOf) -> httpx.AsyncClient:
    """A program on the API's machine; the API has no key."""
    return client_of()


@dataclass(frozen=True)
class ApiProcess:
    """A running `serve` of its own process."""

    url: str
    process: asyncio.subprocess.Process


StartApi = Callable[..., AbstractAsyncContextManager[ApiProcess]]


@pytest.fixture
def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def start_api(free_port: int) -> StartApi:
    """Starts the API as a process and waits until it answers; kills it at the end if the test did not stop it."""

    @asynccontextmanager
    async def start(database_url: str, **variables: str) -> AsyncIterator[ApiProcess]:
        process = await _spawn(
            {"KINITRO_API_DATABASE_URL": database_url, "KINITRO_API_PORT": str(free_port), **variables}
        )
        url = f"http://localhost:{free_port}"
        try:
            await _until_it_answers(url, process)
            yield ApiProcess(url, process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return start


async def _spawn(variables: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVE,
        env={**os.environ, **variables},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def _until_it_answers(url: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30), KinitroClient(url) as client:
        while process.returncode is None:
            try:
                await client.health()
                return
            except ApiUnreachable:
                await asyncio.sleep(0.05)
    _, errors = await process.communicate()
    raise AssertionError(errors.decode())


Spawn = Callable[[dict[str, str]], Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
def spawn_api() -> Spawn:
    """Starts the API as a process and waits for nothing."""
    return _spawn

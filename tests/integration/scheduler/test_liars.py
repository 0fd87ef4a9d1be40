"""Real API, database, scheduler and executors, one of which lies about what its episodes came to."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from kinitro.api import serve
from kinitro.chain import DevLedger, dev_signer
from kinitro.client import KinitroClient
from kinitro.deployments import SnapshotStore
from kinitro.errors import ApiUnreachable, ConfigurationError
from kinitro.executor import build_executor
from kinitro.scheduler.lifecycle import Lifecycle
from kinitro.schemas import ResultIn, SubmitResponse
from kinitro.scoring import score_cycle
from kinitro.settings import ApiSettings, ExecutorSettings, SchedulerSettings
from kinitro.storage import Database, try_leadership
from kinitro.storage import tables as t
from kinitro.testing.line_world import LINE_REACH
from kinitro.types import CycleStatus

NETUID = 7
MINERS = 13
EPISODES = 2
HEAD_START = 10 * EPISODES  # as many miners as it takes to be beyond luck
DEADLINE_S = 170
KEY = "a-key-of-this-test"
LINE_SERVER = Path(__file__).parents[1] / "executor" / "line_server.py"
POLICY = """
import json, sys, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SPEED = {speed}  # also makes each miner's files its own: {name}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer({{"status": "healthy", "model_loaded": True, "uptime_seconds": 0.0, "needs_images": False}})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/reset":
            self.answer({{"status": "ok", "episode_id": str(uuid.uuid4())}})
        else:
            self.answer({{"action": {{"continuous": {{"ee_twist": [SPEED, 0, 0, 0, 0, 0]}}}}}})

    def answer(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass

ThreadingHTTPServer((sys.argv[2], int(sys.argv[4])), Handler).serve_forever()
"""


def lie(result: ResultIn) -> ResultIn:
    """The opposite of what happened."""
    return result.model_copy(
        update={"success": not result.success, "score": float(not result.success), "error": None, "error_kind": None}
    )


@dataclass
class Fleet:
    """Executors in this process, by name, and how each of them ended."""

    url: str
    switches: Path
    stack: AsyncExitStack
    tasks: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)

    async def add(self, name: str, tell: Callable[[ResultIn], ResultIn] = lambda result: result) -> None:
        """An executor that submits what `tell` makes of each result."""
        settings = ExecutorSettings.load(
            api_url=self.url, api_key=KEY, executor_id=name, eval_mode="process", max_concurrent=2, batch_size=4,
            poll_interval_seconds=0.1, action_timeout=2.0, eval_timeout=20.0, shutdown_grace_seconds=1.0,
            miner_deployment_capacity=MINERS, max_timesteps=40,
        )  # fmt: skip
        server = (sys.executable, str(LINE_SERVER), "{host}", "{port}", str(self.switches))
        executor = await self.stack.enter_async_context(
            build_executor(settings, environments=(LINE_REACH,), environment_server=server)
        )
        honest: Callable[[list[ResultIn]], Awaitable[SubmitResponse]] = executor._link.submit
        executor._link.submit = lambda results: honest([tell(result) for result in results])
        self.tasks[name] = asyncio.create_task(executor.run())
        self.stack.push_async_callback(self._end, name)

    async def _end(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.wait({self.tasks[name]})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KINITRO_HOME", str(tmp_path))
    (tmp_path / "switches").mkdir()
    return tmp_path


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
async def ledger(home: Path) -> DevLedger:
    """Half the miners always reach the goal, the others never."""
    ledger, store = DevLedger(home / "ledger.sqlite", block_s=0.02), SnapshotStore(home / "snapshots")
    for number in range(MINERS):
        folder = home / "policies" / str(number)
        folder.mkdir(parents=True)
        (folder / "server.py").write_text(POLICY.format(speed=1.0 if number % 2 else -1.0, name=f"miner {number}"))
        ref, signer = store.add_local(folder, f"tests/miner-{number}"), dev_signer("test", f"miner-{number}")
        await ledger.register(NETUID, signer.ss58_address)
        await ledger.commit(NETUID, f"{ref.repo}:{ref.revision}", signer)
    return ledger


@pytest.fixture
async def fleet(home: Path, database: Database, database_url: str, free_port: int) -> AsyncIterator[Fleet]:
    settings = ApiSettings(database_url=database_url, port=free_port, api_key=KEY)
    async with AsyncExitStack() as stack:
        serving = asyncio.create_task(serve(settings))
        url = f"http://127.0.0.1:{free_port}"
        async with asyncio.timeout(30), KinitroClient(url) as client:
            while True:
                try:
                    await client.health()
                    break
                except ApiUnreachable:
                    await asyncio.sleep(0.05)
        async with stack:
            yield Fleet(url, home / "switches", stack)
        serving.cancel()
        await asyncio.wait({serving})


@asynccontextmanager
async def scheduling(database: Database, ledger: DevLedger, **changes: object) -> AsyncIterator[None]:
    values = {"network": "dev", "netuid": NETUID, "episodes_per_env": EPISODES, "tick_seconds": 0.1, "audit_rate": 1.0}
    settings = SchedulerSettings(**(values | changes))
    async with try_leadership(database) as connection:
        running = asyncio.create_task(Lifecycle(connection, ledger, settings, (LINE_REACH,)).run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait({running})


async def until_closed(database: Database) -> sa.Row[tuple[object, ...]]:
    while True:
        async with database.begin() as connection:
            query = sa.select(t.cycles).where(t.cycles.c.completed_at.is_not(None))
            if (row := (await connection.execute(query)).first()) is not None:
                return row
        await asyncio.sleep(0.1)


@pytest.mark.timeout(DEADLINE_S + 30)
async def test_an_executor_that_flips_verdicts_is_quarantined_and_changes_no_score(database, ledger, fleet) -> None:
    with capture_logs() as events:
        await fleet.add("liar", lie)
        async with asyncio.timeout(DEADLINE_S), scheduling(database, ledger):
            await until_done(fleet, HEAD_START)
            for name in ("honest-1", "honest-2"):
                await fleet.add(name)
            cycle = await until_closed(database)
    assert cycle.status == CycleStatus.COMPLETED
    async with KinitroClient(fleet.url) as client:
        export, status, metrics = await client.export(1), await client.status(), await metrics_of(client)
        weights = await client.weights()
    rates = score_cycle(export).success_rates
    assert rates == {uid: {LINE_REACH.env_id: float(uid % 2)} for uid in range(MINERS)}
    assert {episode.executor_id for episode in export.episodes} == {"honest-1", "honest-2"}
    assert dict(score_cycle(export).weights) == weights.weights
    (entry,) = [entry for entry in status.quarantined if entry.hotkey is None]
    assert entry.executor_id == "liar"
    assert 'kinitro_quarantined_executors{scope="all"} 1.0' in metrics
    assert [event["executor_id"] for event in events if event["event"] == "executor_quarantined"] == ["liar"]
    with pytest.raises(ConfigurationError, match=r"liar is quarantined.*kinitro executors pardon liar"):
        await fleet.tasks["liar"]


async def until_done(fleet: Fleet, count: int) -> None:
    async with KinitroClient(fleet.url) as client:
        while True:
            if (await client.stats()).completed_tasks >= count:
                return
            await asyncio.sleep(0.1)


async def metrics_of(client: KinitroClient) -> str:
    return (await client._http.get("/metrics")).text


@pytest.mark.timeout(DEADLINE_S + 30)
async def test_honest_executors_are_left_alone_however_many_verdicts_are_checked(database, ledger, fleet) -> None:
    for name in ("honest-1", "honest-2", "honest-3"):
        await fleet.add(name)
    async with asyncio.timeout(DEADLINE_S), scheduling(database, ledger, episodes_per_env=1):
        cycle = await until_closed(database)
    assert cycle.status == CycleStatus.COMPLETED
    async with KinitroClient(fleet.url) as client:
        status = await client.status()
    assert status.quarantined == []
    assert status.audits.agreed + status.audits.lapsed == MINERS
    assert status.audits.agreed > 0

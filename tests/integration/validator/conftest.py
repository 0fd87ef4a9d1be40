"""A backend with completed cycles: the real API over a real database, on a socket, which can also be made to lie."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kinitro.api import build_app
from kinitro.chain import DEV_LEDGER_FILE, Chain, DevLedger, Signer, dev_signer
from kinitro.scheduler import planning, publishing
from kinitro.scheduler.files import agreed_files
from kinitro.schemas import ResultIn, RuleOut, TaskOut
from kinitro.settings import ApiSettings, ValidatorSettings
from kinitro.storage import Database, TaskPool, cycles, executors_to_ask, file_claims, line, load_export
from kinitro.storage.task_pool import create_tasks
from kinitro.types import MinerState, PolicyRef
from kinitro.validator.journal import Attempt, open_journal

NETUID = 7
ENVIRONMENTS = ("metaworld/drawer-close-v3", "metaworld/reach-v3")
Lie = Callable[[dict[str, Any]], None]
Tell = Callable[[ResultIn, int], ResultIn]


@dataclass
class Backend:
    """`lies` change the JSON of an answer, by the end of its path. `wins` say who succeeds where.

    `tell` makes what executors submit of each result and its number.
    """

    database: Database
    url: str = ""
    lies: dict[str, Lie] = field(default_factory=dict)
    tell: Tell = lambda result, _: result

    async def complete_cycle(
        self,
        chain: Chain,
        netuid: int,
        wins: Mapping[int, tuple[str, ...]],
        *,
        burn_uid: int | None = None,
        lifetime_blocks: int = 7200,
    ) -> int:
        """One cycle on this chain among the uids of `wins`, from plan to published weights."""
        subnet, salt = await chain.subnet(netuid), bytes(range(32))
        hotkeys = {neuron.uid: neuron.hotkey for neuron in subnet.neurons}
        block_hash = await chain.block_hash(subnet.block)
        async with self.database.begin() as connection:
            genesis = await chain.genesis()
            await cycles.claim_ledger(connection, genesis, netuid)
            sightings = [
                line.Sighting(uid, hotkeys[uid], PolicyRef(f"miner/policy-{uid}", f"{uid:040x}"), uid + 1)
                for uid in wins
            ]
            known = await line.record_sightings(connection, sightings)
            places = await line.give_places(connection, [known[hotkeys[uid]].id for uid in wins])
            miners = tuple(
                cycles.MinerEntry(
                    seen.uid,
                    seen.hotkey,
                    seen.ref,
                    seen.block,
                    known[seen.hotkey].id,
                    places[known[seen.hotkey].id],
                    MinerState.EVALUATED,
                )
                for seen in sightings
            )
            plan = cycles.CyclePlan(
                block_number=subnet.block,
                netuid=netuid,
                genesis=genesis,
                salt=salt,
                salt_sha256=sha256(salt).hexdigest(),
                target_block=subnet.block,
                episodes_per_env=4,
                environments=dict.fromkeys(ENVIRONMENTS, "1"),
                rule=RuleOut(burn_uid=burn_uid),
                miner_time_budget_s=3600,
                timeout_s=7200,
                task_max_attempts=3,
                miners=miners,
            )
            cycle_id = await cycles.insert_plan(connection, plan)
            await create_tasks(connection, cycle_id, planning.plan_tasks(miners, ENVIRONMENTS, 4, salt, block_hash))
            await cycles.mark_running(connection, cycle_id, block_hash)
        await self._run(wins)
        async with self.database.begin() as connection:
            cycle = await cycles.open_cycle(connection)
            assert cycle is not None
            export = await load_export(connection, cycle_id)
            closing = publishing.close(
                cycle,
                export,
                subnet,
                first_seen=await line.first_blocks(connection, cycle_id),
                files=agreed_files(await file_claims(connection, cycle_id), await executors_to_ask(connection)),
                weights_lifetime_blocks=lifetime_blocks,
            )
            await cycles.complete_cycle(connection, cycle, closing)
        return cycle_id

    async def _run(self, wins: Mapping[int, tuple[str, ...]]) -> None:
        pool = TaskPool(self.database)
        number = 0
        while tasks := (await pool.fetch(executor := f"executor-{number % 2}", 1, None)).tasks:
            results = [_result(task, task.env_id in wins[task.miner_uid]) for task in tasks]
            await pool.submit(executor, [self.tell(result, number) for result in results])
            number += 1

    def app(self) -> ASGIApp:
        honest = build_app(self.database, ApiSettings())

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            lie = next((lie for end, lie in self.lies.items() if scope.get("path", "").endswith(end)), None)
            await honest(scope, receive, send if lie is None else _Liar(send, lie))

        return app


class _Liar:
    """Changes a JSON answer on its way out."""

    def __init__(self, send: Send, lie: Lie) -> None:
        self._send, self._lie = send, lie
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        document = json.loads(self._body)
        self._lie(document)
        body = json.dumps(document).encode()
        kept = [pair for pair in self._start["headers"] if pair[0].lower() != b"content-length"]
        await self._send({**self._start, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
        await self._send({"type": "http.response.body", "body": body})


def _result(task: TaskOut, success: bool) -> ResultIn:
    return ResultIn(
        task_uuid=task.task_uuid,
        lease_token=task.lease_token,
        success=success,
        score=float(success),
        total_reward=1.0,
        timesteps=10,
        tree_digest=f"tree-{task.miner_uid}",
        policy_seconds=0.1,
    )


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[str]:
    """Serves an app on a free port and yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, ws="none", lifespan="off", timeout_graceful_shutdown=0)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            async with asyncio.timeout(30):
                while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
                    await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


Serve = Callable[[ASGIApp], Any]


@pytest.fixture
def serve_app() -> Serve:
    return listening


@pytest_asyncio.fixture
async def backend(database: Database) -> AsyncIterator[Backend]:
    made = Backend(database)
    async with listening(made.app()) as url:
        made.url = url
        yield made


@dataclass(frozen=True)
class Village:
    """The dev ledger of this home with a validator and two miners, and what a validator needs to run there."""

    ledger: DevLedger
    home: Path
    validator: Signer
    uid: int
    first: int
    second: int

    def settings(self, backend: Backend, **changes: object) -> ValidatorSettings:
        values = {"backend_url": backend.url, "network": "dev", "netuid": NETUID, "poll_interval_seconds": 0.05}
        return ValidatorSettings(**(values | changes))

    async def weights(self) -> dict[int, int] | None:
        """What the validator has set, uid to u16."""
        found = [
            each.values for each in await self.ledger.weights(NETUID) if each.hotkey == self.validator.ss58_address
        ]
        return dict(found[0]) if found else None

    async def last_update(self) -> int | None:
        return await self.ledger.last_update(NETUID, self.validator.ss58_address)

    def attempts(self) -> list[Attempt]:
        """What the validator has recorded."""
        path = self.home / "validator" / f"{NETUID}-{self.validator.ss58_address}.jsonl"
        return [Attempt.model_validate_json(line) for line in path.read_bytes().splitlines()]

    def record(self, attempt: Attempt) -> None:
        """Leaves a record as a validator that died would have."""
        with open_journal(self.home / "validator", NETUID, self.validator.ss58_address) as journal:
            journal.append(attempt)


@pytest_asyncio.fixture
async def village(kinitro_home: Path) -> Village:
    ledger = DevLedger(kinitro_home / DEV_LEDGER_FILE, block_s=0.05)
    signers = [dev_signer("village", name) for name in ("validator", "first", "second")]
    uids = [await ledger.register(NETUID, signer.ss58_address) for signer in signers]
    return Village(ledger, kinitro_home, signers[0], *uids)

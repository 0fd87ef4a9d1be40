"""Task pool through HTTP: seconds to create a full cycle's tasks, then tasks fetched and submitted a second.

PostgreSQL (embedded, in a temporary home), the API and this client are three processes on one machine.
"""

import argparse
import asyncio
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

from kinitro.client import KinitroClient
from kinitro.errors import ApiUnreachable
from kinitro.schemas import ResultIn, RuleOut, TaskOut
from kinitro.storage import admin, cycles, line
from kinitro.storage.database import Database, open_database
from kinitro.storage.task_pool import PlannedTask, create_tasks
from kinitro.testing.records import made_up_record, made_up_steps
from kinitro.types import MinerState, PolicyRef

MINERS = 256
ENVIRONMENTS = {f"metaworld/task-{number}-v3": "1" for number in range(9)}
EPISODES = 50
BATCH = 100
DEADLINE_S = 300
RECORD = made_up_record(made_up_steps(120))
"""An episode of 120 random steps, 10 KB."""
GENESIS = "0x" + "00" * 32
SERVE = (
    "import asyncio; from kinitro.api import serve; from kinitro.logs import configure_logging; "
    "from kinitro.settings import ApiSettings; configure_logging('WARNING'); asyncio.run(serve(ApiSettings.load()))"
)


async def bench(sample: int, connections: int) -> None:
    with tempfile.TemporaryDirectory(prefix="kinitro-bench-") as home:
        os.environ["KINITRO_HOME"] = home
        await admin.init(None)
        async with open_database(None, home=Path(home)) as database:
            cycle_id, created_s = await create_cycle(database)
            total = MINERS * len(ENVIRONMENTS) * EPISODES
            row(f"create {total:,} tasks", f"{created_s:.2f} s", f"{total / created_s:,.0f} tasks/s")
            async with running_api() as url, KinitroClient(url, timeout_s=60) as client:
                leased, fetched_s = await fetch(client, sample, connections)
                row(f"fetch {sample:,} through HTTP", f"{fetched_s:.2f} s", f"{sample / fetched_s:,.0f} tasks/s")
                submitted_s = await submit(client, leased)
                row(f"submit {sample:,} through HTTP", f"{submitted_s:.2f} s", f"{sample / submitted_s:,.0f} tasks/s")
                assert (await client.stats(cycle_id)).completed_tasks == sample
                exported_s = await export(database, client, cycle_id)
                row(f"export {total:,} through HTTP", f"{exported_s:.2f} s", f"{total / exported_s:,.0f} tasks/s")
    print(f"{connections} connections, batches of {BATCH}; client, API and PostgreSQL share {os.cpu_count()} cores")


async def export(database: Database, client: KinitroClient, cycle_id: int) -> float:
    async with database.begin() as connection:
        await cycles.fail_cycle(connection, cycle_id, "the benchmark is over")
    started = time.perf_counter()
    await client.export(cycle_id)
    return time.perf_counter() - started


def row(what: str, seconds: str, rate: str) -> None:
    print(f"{what:<32}{seconds:>10}{rate:>20}", flush=True)


async def create_cycle(database: Database) -> tuple[int, float]:
    """A running cycle of the largest size; its id, and the seconds that creating its tasks took."""
    refs = [(f"hotkey-{uid}", PolicyRef(f"user-{uid}/policy", f"{uid:040x}")) for uid in range(MINERS)]
    async with database.begin() as connection:
        await cycles.claim_ledger(connection, GENESIS, 1)
        known = await line.record_sightings(
            connection, [line.Sighting(uid, hotkey, ref, 1) for uid, (hotkey, ref) in enumerate(refs)]
        )
        places = await line.give_places(connection, [known[hotkey].id for hotkey, _ in refs])
        miners = tuple(
            cycles.MinerEntry(uid, hotkey, ref, 1, known[hotkey].id, places[known[hotkey].id], MinerState.EVALUATED)
            for uid, (hotkey, ref) in enumerate(refs)
        )
        cycle_id = await cycles.insert_plan(connection, plan(miners))
        started = time.perf_counter()
        await create_tasks(connection, cycle_id, planned(miners))
        seconds = time.perf_counter() - started
        await cycles.mark_running(connection, cycle_id, GENESIS)
    return cycle_id, seconds


def plan(miners: tuple[cycles.MinerEntry, ...]) -> cycles.CyclePlan:
    salt = secrets.token_bytes(32)
    return cycles.CyclePlan(
        block_number=1,
        netuid=1,
        genesis=GENESIS,
        salt=salt,
        salt_sha256=sha256(salt).hexdigest(),
        target_block=4,
        episodes_per_env=EPISODES,
        environments=ENVIRONMENTS,
        rule=RuleOut(),
        miner_time_budget_s=3600,
        timeout_s=7200,
        task_max_attempts=3,
        miners=miners,
    )


def planned(miners: tuple[cycles.MinerEntry, ...]) -> Iterator[PlannedTask]:
    position = 0
    for miner in miners:
        assert miner.ref is not None
        for env_id in ENVIRONMENTS:
            for index in range(EPISODES):
                yield PlannedTask(
                    uid=miner.uid,
                    hotkey=miner.hotkey,
                    repo=miner.ref.repo,
                    revision=miner.ref.revision,
                    env_id=env_id,
                    episode_index=index,
                    seed=index,
                    policy_seed=position,
                    position=position,
                )
                position += 1


@asynccontextmanager
async def running_api() -> AsyncIterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, env={**os.environ, "KINITRO_API_PORT": str(port)}
    )
    try:
        await until_it_answers(url)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def until_it_answers(url: str) -> None:
    async with asyncio.timeout(30), KinitroClient(url) as client:
        while True:
            try:
                await client.health()
                return
            except ApiUnreachable:
                await asyncio.sleep(0.1)


async def fetch(client: KinitroClient, sample: int, connections: int) -> tuple[dict[str, list[TaskOut]], float]:
    """Leases a sample of the tasks to as many executors as there are connections."""
    leased: dict[str, list[TaskOut]] = {f"executor-{number}": [] for number in range(connections)}
    batches = iter(range(sample // BATCH))

    async def work(executor_id: str) -> None:
        for _ in batches:
            leased[executor_id] += (await client.fetch(executor_id, BATCH)).tasks

    seconds = await timed(work(executor_id) for executor_id in leased)
    assert len({task.task_uuid for tasks in leased.values() for task in tasks}) == sample
    return leased, seconds


async def submit(client: KinitroClient, leased: dict[str, list[TaskOut]]) -> float:
    """Submits one verdict for each leased task."""

    async def work(executor_id: str, tasks: list[TaskOut]) -> None:
        for start in range(0, len(tasks), BATCH):
            batch = tasks[start : start + BATCH]
            answer = await client.submit(executor_id, [verdict(task) for task in batch])
            assert answer.accepted == len(batch), answer

    return await timed(work(executor_id, tasks) for executor_id, tasks in leased.items())


async def timed(workers: Iterable[Coroutine[None, None, None]]) -> float:
    started = time.perf_counter()
    await asyncio.gather(*workers)
    return time.perf_counter() - started


def verdict(task: TaskOut) -> ResultIn:
    return ResultIn(
        task_uuid=task.task_uuid,
        lease_token=task.lease_token,
        success=True,
        score=1.0,
        total_reward=100.0,
        timesteps=120,
        trace_digest="0" * 64,
        tree_digest="1" * 64,
        policy_seconds=0.5,
        record=RECORD,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=20_000, help="tasks to fetch and submit (a multiple of 100)")
    parser.add_argument("--connections", type=int, default=4)
    arguments = parser.parse_args()
    asyncio.run(asyncio.wait_for(bench(arguments.sample, arguments.connections), DEADLINE_S))


if __name__ == "__main__":
    main()

"""Cycles from commitments to weights, on a real database and the dev ledger; a simple executor answers tasks."""

import asyncio
import functools
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from kinitro.chain import Chain, DevLedger, dev_signer
from kinitro.environments import select
from kinitro.errors import ChainError, ChainUnreachable, ConfigurationError, InfrastructureError, PolicyError
from kinitro.scheduler import RebuildReport, rebuild_evidence
from kinitro.scheduler.lifecycle import STALLED_AFTER_S, Lifecycle, RejectionLog
from kinitro.scheduler.service import _keep_leading
from kinitro.schemas import ResultIn, TaskOut
from kinitro.scoring import salt_digest, score_cycle
from kinitro.scoring.check import all_passed, check_export
from kinitro.settings import SchedulerSettings
from kinitro.storage import Database, TaskPool, load_export, try_leadership
from kinitro.storage import tables as t
from kinitro.storage.reads import list_miners, load_status
from kinitro.testing.records import made_up_record, made_up_steps
from kinitro.types import CycleStatus, ErrorKind, MinerState, PolicyRef

NETUID = 7
ENVIRONMENTS = ["metaworld/drawer-close-v3", "metaworld/reach-v3"]
Answer = Callable[[TaskOut], ResultIn]


def settings(**changes: object) -> SchedulerSettings:
    values: dict[str, object] = {
        "network": "dev",
        "netuid": NETUID,
        "eval_interval_seconds": 1.5,  # time to stop a scheduler before it plans the next cycle
        "episodes_per_env": 5,
        "environments": ENVIRONMENTS,
        "tick_seconds": 0.02,
    }
    return SchedulerSettings(**(values | changes))


@pytest.fixture
def ledger(tmp_path: Path) -> DevLedger:
    return DevLedger(tmp_path / "ledger.sqlite", block_s=0.02)


async def commit(ledger: DevLedger, name: str, repo: str, revision: str = "a" * 40) -> int:
    signer = dev_signer("test", name)
    uid = await ledger.register(NETUID, signer.ss58_address)
    await ledger.commit(NETUID, f"{repo}:{revision}", signer)
    return uid


def result(task: TaskOut, *, success: bool, tree_digest: str | None = None) -> ResultIn:
    return ResultIn(
        task_uuid=task.task_uuid,
        lease_token=task.lease_token,
        success=success,
        score=float(success),
        total_reward=1.0,
        timesteps=10,
        tree_digest=tree_digest,
        policy_seconds=0.1,
    )


def fault(task: TaskOut) -> ResultIn:
    return result(task, success=False).model_copy(update={"error": "no engine", "error_kind": ErrorKind.INFRASTRUCTURE})


async def execute(database: Database, answer: Answer) -> None:
    """Runs every task it can get, until cancelled."""
    pool = TaskPool(database)
    while True:
        fetched = await pool.fetch("executor", 100, None)
        if fetched.tasks:
            await pool.submit("executor", [answer(task) for task in fetched.tasks])
        await asyncio.sleep(0.02)


@asynccontextmanager
async def leading(
    database: Database, chain: Chain, chosen: SchedulerSettings | None = None, **more: object
) -> AsyncIterator[Lifecycle]:
    chosen = chosen or settings()
    async with try_leadership(database) as connection:
        assert connection is not None
        yield Lifecycle(connection, chain, chosen, select(None, chosen.environments), **more)


async def until(database: Database, condition: sa.Select[tuple[object]]) -> None:
    async with asyncio.timeout(20):
        while True:
            async with database.begin() as connection:
                if (await connection.execute(condition)).first():
                    return
            await asyncio.sleep(0.02)


CLOSED = sa.select(t.cycles.c.id).where(t.cycles.c.completed_at.is_not(None))


async def run_one_cycle(
    database: Database, ledger: Chain, answer: Answer, chosen: SchedulerSettings | None = None, **parts: object
) -> int:
    """Runs scheduler and executor until one more cycle is closed; returns its id."""
    async with database.begin() as connection:
        before = len((await connection.execute(CLOSED)).all())
    more = CLOSED.order_by(t.cycles.c.id).offset(before).limit(1)
    async with leading(database, ledger, chosen, **parts) as lifecycle:
        work = [asyncio.create_task(lifecycle.run()), asyncio.create_task(execute(database, answer))]
        try:
            await until(database, more)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
    async with database.begin() as connection:
        return int((await connection.execute(more)).scalar_one())


async def row(database: Database, table: sa.Table, cycle_id: int) -> sa.Row[tuple[object, ...]] | None:
    column = table.c.id if table is t.cycles else table.c.cycle_id
    async with database.begin() as connection:
        return (await connection.execute(sa.select(table).where(column == cycle_id))).first()


async def notice(database: Database, topic: str) -> str | None:
    async with database.begin() as connection:
        return await connection.scalar(sa.select(t.notices.c.text).where(t.notices.c.topic == topic))


async def test_a_finished_cycle_publishes_the_weights_that_its_export_leads_to(database, ledger):
    good, bad = await commit(ledger, "good", "a/good"), await commit(ledger, "bad", "b/bad")
    cycle_id = await run_one_cycle(database, ledger, lambda task: result(task, success=task.miner_uid == good))
    cycle, weights = await row(database, t.cycles, cycle_id), await row(database, t.weights, cycle_id)
    assert cycle.status == CycleStatus.COMPLETED
    assert weights.weights == {str(good): 1.0}
    assert weights.hotkeys == {str(good): dev_signer("test", "good").ss58_address}
    async with database.begin() as connection:
        export = await load_export(connection, cycle_id)
    score = score_cycle(export)
    assert {str(uid): weight for uid, weight in score.weights.items()} == weights.weights
    assert score.success_rates == {uid: dict.fromkeys(ENVIRONMENTS, float(uid == good)) for uid in (good, bad)}
    assert salt_digest(bytes.fromhex(export.salt)) == export.salt_sha256 == cycle.salt_sha256


async def test_evidence_of_earlier_cycles_counts_until_a_better_newcomer_takes_the_crown(database, ledger):
    first, second = await commit(ledger, "first", "a/first"), await commit(ledger, "second", "b/second")

    def answer(task: TaskOut) -> ResultIn:
        return result(task, success=task.miner_uid == second or task.env_id == ENVIRONMENTS[0])

    chosen = settings(episodes_per_env=6)
    crowns = []
    for _ in range(4):
        cycle_id = await run_one_cycle(database, ledger, answer, chosen)
        standing, weights = await row(database, t.standings, cycle_id), await row(database, t.weights, cycle_id)
        crowns.append(standing.prizes["crown"])
        async with database.begin() as connection:
            recomputed = score_cycle(await load_export(connection, cycle_id)).weights
        assert {str(uid): weight for uid, weight in recomputed.items()} == weights.weights
    assert crowns[0] == first
    assert crowns[-1] == second


async def test_an_exact_copy_is_listed_not_evaluated_and_earns_nothing(database, ledger):
    owner, copy = await commit(ledger, "owner", "a/policy"), await commit(ledger, "copy", "A/Policy")
    cycle_id = await run_one_cycle(database, ledger, lambda task: result(task, success=True))
    async with database.begin() as connection:
        export = await load_export(connection, cycle_id)
    assert {episode.uid for episode in export.episodes} == {owner}
    assert {miner.uid: miner.state for miner in export.miners}[copy] is MinerState.COPY
    assert (await row(database, t.weights, cycle_id)).weights == {str(owner): 1.0}


async def test_a_copy_under_another_name_earns_nothing_in_the_very_cycle_it_is_found(database, ledger):
    owner, copy = await commit(ledger, "owner", "a/policy"), await commit(ledger, "copy", "b/renamed", "b" * 40)

    def answer(task: TaskOut) -> ResultIn:
        # The copy happens to be luckier: it must not profit from that.
        return result(task, success=task.miner_uid == copy or task.env_id == ENVIRONMENTS[0], tree_digest="same-files")

    cycle_id = await run_one_cycle(database, ledger, answer)
    assert (await row(database, t.weights, cycle_id)).weights == {str(owner): 1.0}
    async with database.begin() as connection:
        export = await load_export(connection, cycle_id)
    (entry,) = [miner for miner in export.miners if miner.uid == copy]
    assert (entry.state, entry.reason, entry.place) == (MinerState.COPY, f"copy of uid {owner}", None)


async def test_one_executors_word_makes_no_copy_where_others_could_be_asked_and_the_operator_is_told(database, ledger):
    owner, other = await commit(ledger, "owner", "a/policy"), await commit(ledger, "other", "b/renamed", "b" * 40)
    async with database.begin() as connection:
        hour_ago = sa.text("clock_timestamp() - interval '1 hour'")
        await connection.execute(sa.insert(t.executors).values(executor_id="asleep", last_seen_at=hour_ago))
    answer = functools.partial(result, success=True, tree_digest="same-files")
    first = await run_one_cycle(database, ledger, answer)
    assert await states(database, first) == {owner: MinerState.EVALUATED, other: MinerState.EVALUATED}
    assert "share files with another by executor alone" in await notice(database, "files")
    async with database.begin() as connection:
        assert all_passed(check_export(await load_export(connection, first)))
        await connection.execute(sa.delete(t.executors).where(t.executors.c.executor_id == "asleep"))
    second = await run_one_cycle(database, ledger, answer)  # what one says counts now: there is only the one
    assert await states(database, second) == {owner: MinerState.EVALUATED, other: MinerState.COPY}
    assert await notice(database, "files") is None
    async with database.begin() as connection:
        assert all_passed(check_export(await load_export(connection, second)))


async def states(database: Database, cycle_id: int) -> dict[int, MinerState]:
    async with database.begin() as connection:
        return {miner.uid: miner.state for miner in (await load_export(connection, cycle_id)).miners}


async def test_a_copy_that_was_found_is_not_evaluated_again_until_somebody_says_otherwise(database, ledger):
    owner, other = await commit(ledger, "owner", "a/policy"), await commit(ledger, "other", "b/renamed", "b" * 40)

    async def evaluated() -> set[int]:
        cycle_id = await run_one_cycle(database, ledger, functools.partial(result, success=True, tree_digest="same"))
        async with database.begin() as connection:
            return {episode.uid for episode in (await load_export(connection, cycle_id)).episodes}

    assert await evaluated() == {owner, other}
    assert await evaluated() == {owner}
    async with database.begin() as connection:
        again = sa.select(*t.file_claims.c).where(t.file_claims.c.uid == other)
        claim = (await connection.execute(again)).mappings().one()
        await connection.execute(sa.insert(t.file_claims).values({**claim, "tree_digest": "its-own"}))
    assert await evaluated() == {owner, other}


async def test_two_images_of_one_environment_are_paid_for_and_the_operator_is_told_until_it_is_one(database, ledger):
    miner = await commit(ledger, "miner", "a/policy")

    def answer(*images: str) -> Answer:
        turn = itertools.cycle(images)
        return lambda task: result(task, success=True).model_copy(update={"image_digest": next(turn)})

    cycle_id = await run_one_cycle(database, ledger, answer("sha256:0", "sha256:1"))
    assert (await row(database, t.weights, cycle_id)).weights == {str(miner): 1.0}
    said = await notice(database, "images")
    assert "ran from 2 different images: sha256:0 by executor, sha256:1 by executor" in said
    assert "docker save" in said
    await run_one_cycle(database, ledger, answer("sha256:0"))
    assert await notice(database, "images") is None


async def test_a_cycle_that_can_not_be_scored_fails_with_its_reason_and_the_next_one_runs(database, ledger):
    miner = await commit(ledger, "miner", "a/policy")

    async with leading(database, ledger) as lifecycle:
        running = asyncio.create_task(lifecycle.run())
        await until(database, sa.select(t.tasks.c.id))
        async with database.begin() as connection:
            # As after an upgrade that reads the numbers otherwise: no place is below 1.
            await connection.execute(sa.update(t.cycle_miners).values(place=0))
        work = [running, asyncio.create_task(execute(database, succeed))]
        try:
            await until(database, sa.select(t.cycles.c.id).where(t.cycles.c.status == CycleStatus.COMPLETED))
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
    failed = await row(database, t.cycles, 1)
    assert failed.status == CycleStatus.FAILED
    assert "could not be scored" in failed.failure_reason
    assert "a place is not positive" in failed.failure_reason
    assert (await row(database, t.weights, 2)).weights == {str(miner): 1.0}


async def test_a_cycle_with_too_many_unevaluated_episodes_fails_and_publishes_nothing(database, ledger):
    await commit(ledger, "miner", "a/policy")

    def answer(task: TaskOut) -> ResultIn:
        return fault(task) if task.env_id == ENVIRONMENTS[0] else result(task, success=True)

    cycle_id = await run_one_cycle(database, ledger, answer, settings(task_max_attempts=1))
    cycle = await row(database, t.cycles, cycle_id)
    assert cycle.status == CycleStatus.FAILED
    assert "5 of 10 episodes could not be evaluated" in cycle.failure_reason
    assert await row(database, t.weights, cycle_id) is None
    assert "published no weights" in await notice(database, "weights")


async def test_nobody_with_points_and_no_burn_uid_means_no_weights_and_a_reason(database, ledger):
    await commit(ledger, "miner", "a/policy")
    cycle_id = await run_one_cycle(database, ledger, lambda task: result(task, success=False))
    assert (await row(database, t.cycles, cycle_id)).status == CycleStatus.COMPLETED
    assert await row(database, t.weights, cycle_id) is None
    assert "KINITRO_SCHEDULER_BURN_UID" in await notice(database, "weights")


async def test_nobody_with_points_burns_everything_when_a_burn_uid_is_set(database, ledger):
    owner = dev_signer("test", "owner").ss58_address
    burn = await ledger.register(NETUID, owner)
    await commit(ledger, "miner", "a/policy")
    chosen = settings(burn_uid=burn)
    cycle_id = await run_one_cycle(database, ledger, lambda task: result(task, success=False), chosen)
    weights = await row(database, t.weights, cycle_id)
    assert weights.weights == {str(burn): 1.0}
    assert weights.hotkeys == {str(burn): owner}


async def test_a_cycle_that_takes_too_long_gives_up_what_is_left_of_it(database, ledger):
    await commit(ledger, "miner", "a/policy")
    async with leading(database, ledger, settings(cycle_timeout_seconds=0.3)) as lifecycle:
        running = asyncio.create_task(lifecycle.run())
        await until(database, CLOSED)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    async with database.begin() as connection:
        reasons = set(await connection.scalars(sa.select(t.tasks.c.last_error)))
    assert reasons == {"cycle timed out after 0 s"}


async def test_a_restarted_scheduler_resumes_the_running_cycle(database, ledger):
    await commit(ledger, "miner", "a/policy")
    async with leading(database, ledger) as lifecycle:
        running = asyncio.create_task(lifecycle.run())
        await until(database, sa.select(t.tasks.c.id))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    cycle_id = await run_one_cycle(database, ledger, lambda task: result(task, success=True))
    assert cycle_id == 1
    assert (await row(database, t.cycles, 1)).status == CycleStatus.COMPLETED


async def test_a_second_scheduler_does_not_get_to_lead_until_the_first_is_gone(database):
    async with try_leadership(database) as first:
        assert first is not None
        async with try_leadership(database) as second:
            assert second is None
    async with try_leadership(database) as third:
        assert third is not None


async def test_a_mistyped_netuid_binds_nothing_that_was_never_used(database, ledger):
    await commit(ledger, "good", "a/good")
    async with leading(database, ledger, settings(netuid=NETUID + 1)) as lifecycle:
        with pytest.raises(ChainError, match=f"no subnet {NETUID + 1}"):
            await lifecycle.run()
    assert await run_one_cycle(database, ledger, lambda task: result(task, success=True)) == 1


async def test_a_scheduler_of_another_netuid_does_not_stand_by(database, database_url, ledger):
    await commit(ledger, "good", "a/good")
    await run_one_cycle(database, ledger, lambda task: result(task, success=True))
    async with leading(database, ledger):
        other = settings(netuid=NETUID + 1, database_url=database_url)
        with pytest.raises(ConfigurationError, match=f"This database is of netuid {NETUID} "):
            await asyncio.wait_for(_keep_leading(database, ledger, other, (), None), 20)


async def test_a_database_of_another_netuid_is_refused(database, ledger):
    await commit(ledger, "miner", "a/policy")
    await run_one_cycle(database, ledger, lambda task: result(task, success=True))
    async with leading(database, ledger, settings(netuid=NETUID + 1)) as lifecycle:
        with pytest.raises(ConfigurationError, match=f"netuid {NETUID} "):
            await lifecycle.run()


class StalledLedger:
    """A ledger whose head stops moving once the cycle is planned. Everything else is the real one's."""

    def __init__(self, ledger: DevLedger) -> None:
        self._ledger = ledger
        self.stalled_at: int | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._ledger, name)

    async def finalized_block(self) -> int:
        if self.stalled_at is None:
            self.stalled_at = await self._ledger.finalized_block()
        return self.stalled_at


async def test_a_chain_that_makes_no_blocks_fails_the_cycle_with_that_reason(database, ledger):
    await commit(ledger, "miner", "a/policy")
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += STALLED_AFTER_S / 4
        return now

    async with leading(database, StalledLedger(ledger), clock=clock) as lifecycle:
        running = asyncio.create_task(lifecycle.run())
        await until(database, CLOSED)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    cycle = await row(database, t.cycles, 1)
    assert cycle.status == CycleStatus.FAILED
    assert "finalized no block for 120 s" in cycle.failure_reason


class UnreachableLedger(StalledLedger):
    """A ledger that can't be read."""

    async def subnet(self, netuid: int) -> object:
        raise ChainUnreachable("No answer from the chain.")


async def test_an_unreachable_chain_is_an_error_never_zero_miners(database, ledger):
    async with leading(database, UnreachableLedger(ledger)) as lifecycle:
        with pytest.raises(ChainUnreachable):
            await lifecycle.run()
    assert await notice(database, "miners") is None


async def test_a_scheduler_that_waits_for_its_chain_is_not_taken_for_none(database, ledger):
    chosen = settings()
    waiting = _keep_leading(database, UnreachableLedger(ledger), chosen, select(None, chosen.environments), None)
    running = asyncio.create_task(waiting)
    await until(database, sa.select(t.notices.c.text).where(t.notices.c.text.contains("No answer from the chain")))
    await asyncio.sleep(0.3)  # it leads no more, and tries again in a while
    async with database.connect() as connection:
        assert (await load_status(connection)).scheduler_running
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    async with database.connect() as connection:
        assert not (await load_status(connection)).scheduler_running


async def test_between_cycles_the_status_says_when_the_next_one_is_due(database, ledger):
    await commit(ledger, "good", "a/good")
    chosen = settings(eval_interval_seconds=600.0)
    async with leading(database, ledger, chosen) as lifecycle:
        work = [asyncio.create_task(lifecycle.run()), asyncio.create_task(execute(database, succeed))]
        await until(database, sa.select(t.notices.c.text).where(t.notices.c.topic == "next"))
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
    assert (await notice(database, "next")).startswith("The next cycle is due at 20")


async def test_without_commitments_the_scheduler_says_so_with_the_guides_advice(database, ledger):
    await ledger.register(NETUID, dev_signer("test", "silent").ss58_address)
    chosen = settings(network="wss://me:s3cret@node.example:9944/key/k3y")
    async with leading(database, ledger, chosen) as lifecycle:
        running = asyncio.create_task(lifecycle.run())
        await until(database, sa.select(t.notices.c.text).where(t.notices.c.topic == "miners"))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    text = await notice(database, "miners")
    assert text.startswith("No miners with commitments")
    # Everybody may read it: a node's URL without whatever may be a key.
    assert f"kinitro miner show-commitment --netuid {NETUID} --network wss://node.example:9944" in text
    assert "s3cret" not in text
    assert "k3y" not in text


async def test_evidence_can_be_made_anew_from_the_verdicts_to_the_same_numbers(database, database_url, ledger):
    await commit(ledger, "good", "a/good")
    await commit(ledger, "bad", "b/bad")
    cycle_id = await run_one_cycle(database, ledger, lambda task: result(task, success=True))
    assert (await rebuild_evidence(database_url)) == RebuildReport(cycles=1, rows=4, corrected=0)
    broken = sa.update(t.outcome_bits).where(t.outcome_bits.c.env_id == ENVIRONMENTS[0]).values(success=b"\x00")
    async with database.begin() as connection:
        await connection.execute(broken.where(t.outcome_bits.c.cycle_id == cycle_id))
    assert (await rebuild_evidence(database_url)).corrected == 2
    assert (await rebuild_evidence(database_url)).corrected == 0


class Hub:
    """What `kinitro.json` of each repo says; an exception is raised. Counts how often it is asked."""

    def __init__(self, **owner_of: str | Exception | None) -> None:
        self.answers = {repo.replace("__", "/"): answer for repo, answer in owner_of.items()}
        self.asked: list[str] = []

    async def read_owner(self, ref: PolicyRef) -> str | None:
        self.asked.append(ref.repo)
        answer = self.answers[ref.repo.lower()]
        if isinstance(answer, Exception):
            raise answer
        return answer


def address(name: str) -> str:
    return dev_signer("test", name).ss58_address


async def listed(database: Database) -> dict[int, tuple[MinerState, str | None]]:
    async with database.begin() as connection:
        return {miner.uid: (miner.state, miner.reason) for miner in await list_miners(connection)}


def succeed(task: TaskOut) -> ResultIn:
    return result(task, success=True)


async def test_a_thief_who_commits_first_is_rejected_and_the_owner_takes_part_at_its_own_place(database, ledger):
    thief, owner = await commit(ledger, "thief", "a/policy"), await commit(ledger, "owner", "A/policy")
    bare = await commit(ledger, "bare", "b/bare")
    hub = Hub(a__policy=address("owner"), b__bare=None)
    await run_one_cycle(database, ledger, succeed, inspector=hub)
    seen = await listed(database)
    assert seen[owner] == (MinerState.EVALUATED, None)
    assert seen[thief][0] is seen[bare][0] is MinerState.REJECTED
    assert f"names another hotkey, {address('owner')}" in seen[thief][1]
    assert "kinitro miner deploy" in seen[bare][1]
    async with database.begin() as connection:
        assert await connection.scalar(sa.select(t.places.c.place)) == 1


async def test_the_hub_is_asked_once_for_each_revision_and_never_again(database, ledger):
    await commit(ledger, "owner", "a/policy")
    hub = Hub(a__policy=address("owner"))
    for _ in range(2):
        await run_one_cycle(database, ledger, succeed, inspector=hub)
    assert hub.asked == ["a/policy"]


async def test_a_hub_that_fails_keeps_a_miner_queued_with_its_place_in_line(database, ledger):
    first, second = await commit(ledger, "first", "a/first"), await commit(ledger, "second", "b/second")
    hub = Hub(a__first=InfrastructureError("The hub asks us to slow down.", code="hub_rate_limited"))
    hub.answers["b/second"] = address("second")
    cycle_id = await run_one_cycle(database, ledger, succeed, inspector=hub)
    seen = await listed(database)
    assert (seen[first][0], seen[second][0]) == (MinerState.QUEUED, MinerState.EVALUATED)
    assert "slow down" in seen[first][1]
    assert "Waiting for the hub, for 1 miners" in await notice(database, "hub")
    assert (await row(database, t.weights, cycle_id)).weights == {str(second): 1.0}
    hub.answers["a/first"] = address("first")
    await run_one_cycle(database, ledger, succeed, inspector=hub)
    assert (await listed(database))[first][0] is MinerState.EVALUATED
    assert await notice(database, "hub") is None
    async with database.begin() as connection:
        export = await load_export(connection, cycle_id + 1)
    assert {miner.uid: miner.place for miner in export.miners} == {first: 1, second: 2}


async def test_who_was_seen_first_is_the_original_even_where_it_got_its_place_later(database, ledger):
    owner, copier = await commit(ledger, "owner", "a/policy"), await commit(ledger, "copier", "b/renamed", "b" * 40)
    # The owner's repo is private when the cycle is planned: rejected, so without a place.
    hub = Hub(a__policy=PolicyError("The repo is private.", code="snapshot_private"), b__renamed=address("copier"))
    await run_one_cycle(database, ledger, succeed, inspector=hub)
    hub.answers["a/policy"] = address("owner")
    cycle_id = await run_one_cycle(
        database, ledger, lambda task: result(task, success=True, tree_digest="same"), inspector=hub
    )
    async with database.begin() as connection:
        export = await load_export(connection, cycle_id)
    assert {miner.uid: miner.state for miner in export.miners} == {
        owner: MinerState.EVALUATED,
        copier: MinerState.COPY,
    }


async def test_an_executor_not_heard_of_for_a_day_is_forgotten(database, ledger):
    async with database.begin() as connection:
        long_ago = sa.text("clock_timestamp() - interval '25 hours'")
        await connection.execute(sa.insert(t.executors).values(executor_id="gone", last_seen_at=long_ago))
        await connection.execute(sa.insert(t.executors).values(executor_id="asleep"))
    await commit(ledger, "miner", "a/policy")
    # Without audits: the one that sleeps would be waited for.
    await run_one_cycle(database, ledger, succeed, settings(audit_rate=0))
    async with database.begin() as connection:
        known = set(await connection.scalars(sa.select(t.executors.c.executor_id)))
    assert known == {"asleep", "executor"}


async def test_a_hub_that_is_down_from_the_start_costs_nobody_a_place(database, ledger):
    first, second = await commit(ledger, "first", "a/first"), await commit(ledger, "second", "b/second")
    down = InfrastructureError("The hub is down.", code="hub_unreachable")
    hub = Hub(a__first=down, b__second=down)
    async with leading(database, ledger, inspector=hub) as lifecycle:
        running = asyncio.create_task(lifecycle.run())
        await until(database, sa.select(t.notices.c.text).where(t.notices.c.topic == "miners"))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert {state for state, _ in (await listed(database)).values()} == {MinerState.QUEUED}
    await commit(ledger, "first", "a/first")  # its block on chain is now behind the other's
    hub.answers = {"a/first": address("first"), "b/second": address("second")}
    await run_one_cycle(database, ledger, succeed, inspector=hub)
    async with database.begin() as connection:
        export = await load_export(connection, 1)
    assert {miner.uid: miner.place for miner in export.miners} == {first: 1, second: 2}


async def test_a_repo_that_becomes_public_is_asked_for_again(database, ledger):
    hidden, other = await commit(ledger, "hidden", "a/hidden"), await commit(ledger, "other", "b/other")
    hub = Hub(a__hidden=PolicyError("The repo is private.", code="snapshot_private"), b__other=address("other"))
    await run_one_cycle(database, ledger, succeed, inspector=hub)
    assert (await listed(database))[hidden] == (MinerState.REJECTED, "The repo is private.")
    hub.answers["a/hidden"] = address("hidden")
    await run_one_cycle(database, ledger, succeed, inspector=hub)
    assert {state for state, _ in (await listed(database)).values()} == {MinerState.EVALUATED}
    assert hidden != other


async def test_a_rejected_commitment_is_logged_once_and_listed_in_every_cycle(database, ledger):
    await commit(ledger, "good", "a/policy")
    bad = await commit(ledger, "bad", "not a repo", revision="")
    rejections = RejectionLog()
    with capture_logs() as logged:
        for _ in range(2):
            await run_one_cycle(database, ledger, succeed, rejections=rejections)
            state, reason = (await listed(database))[bad]
            assert state is MinerState.REJECTED
            assert "'not a repo' is not a repo id" in reason
    assert [entry["uid"] for entry in logged if entry["event"] == "commitment_rejected"] == [bad]


async def test_when_all_commitments_are_rejected_the_status_says_why(database, ledger):
    await commit(ledger, "bad", "nonsense", revision="")
    async with leading(database, ledger) as lifecycle:
        running = asyncio.create_task(lifecycle.run())
        await until(database, sa.select(t.notices.c.text).where(t.notices.c.topic == "miners"))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [state for state, _ in (await listed(database)).values()] == [MinerState.REJECTED]
    assert "1 can't take part. uid 0: The commitment can't be read" in await notice(database, "miners")


async def test_steps_of_cycles_long_past_make_room_when_the_next_one_is_planned(database, ledger):
    await commit(ledger, "good", "a/good")
    record = made_up_record(made_up_steps())

    def recorded(task: TaskOut) -> ResultIn:
        return result(task, success=True).model_copy(update={"record": record})

    cycles = [await run_one_cycle(database, ledger, recorded, settings(steps_kept_cycles=1)) for _ in range(3)]
    async with database.begin() as connection:
        query = sa.select(t.records.c.cycle_id).where(t.records.c.steps.is_not(None)).distinct()
        kept = set(await connection.scalars(query))
        assert await connection.scalar(sa.select(sa.func.count()).select_from(t.records)) >= 3
    assert cycles[0] not in kept
    assert cycles[2] in kept

"""One cycle as named steps: discover, plan, start, wait, publish. Every step can be resumed by another scheduler."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.chain import Chain, Subnet, shown_network
from kinitro.environments import EnvironmentSpec
from kinitro.errors import ChainUnreachable, KinitroError
from kinitro.logs import get_logger
from kinitro.scheduler import files, ownership, planning, publishing
from kinitro.scheduler.auditor import Auditor
from kinitro.scheduler.ownership import PolicyInspector
from kinitro.schemas import RuleOut
from kinitro.scoring import salt_digest
from kinitro.settings import SchedulerSettings
from kinitro.storage import (
    CyclePlan,
    MinerEntry,
    OpenCycle,
    Sighting,
    add_active_time,
    check_ledger,
    claim_ledger,
    close_over_budget,
    complete_cycle,
    create_tasks,
    executors_to_ask,
    expire_leases,
    fail_cycle,
    fail_remaining,
    file_claims,
    first_blocks,
    forget_claims,
    forget_executors,
    forget_steps,
    give_places,
    insert_plan,
    known_owners,
    latest_claims,
    load_export,
    lock_running,
    mark_running,
    open_cycle,
    progress,
    record_owners,
    record_sightings,
    replace_turned_away,
    seconds_since_last_start,
    set_notice,
)
from kinitro.types import CycleStatus, MinerState, PolicyRef

log = get_logger("scheduler")

TARGET_DISTANCE = 3
"""Blocks between the finalized head at planning and the block whose hash enters the seeds."""
STALLED_AFTER_S = 120.0
"""A chain that finalizes no block for this long is stalled."""
_SHOWN = 3
NO_MINERS = (
    "No miners with commitments on netuid {netuid}. Check that a miner has committed on this netuid: "
    "`kinitro miner show-commitment --netuid {netuid} --network {network}`."
)


@dataclass
class Watch:
    """When something last happened, by this process's monotonic clock."""

    clock: Callable[[], float]
    at: float = 0.0

    def __post_init__(self) -> None:
        self.at = self.clock()

    def lap(self) -> float:
        """Seconds since the last lap, and starts the next."""
        before, self.at = self.at, self.clock()
        return self.at - before

    @property
    def age(self) -> float:
        """Seconds since the last lap."""
        return self.clock() - self.at


class RejectionLog:
    """Logs each rejected commitment once, not in every cycle in which it is still there."""

    def __init__(self) -> None:
        self._known: frozenset[tuple[str, PolicyRef | None, str | None]] = frozenset()

    def report(self, turned_away: tuple[MinerEntry, ...]) -> None:
        """Logs what was not there the last time."""
        rejected = {
            (miner.hotkey, miner.ref, miner.reason): miner
            for miner in turned_away
            if miner.state is MinerState.REJECTED
        }
        for key, miner in rejected.items():
            if key not in self._known:
                log.warning("commitment_rejected", uid=miner.uid, hotkey=miner.hotkey, reason=miner.reason)
        self._known = frozenset(rejected)


class Lifecycle:
    """Drives cycles on the connection that holds the scheduler's lock, until cancelled or that connection breaks."""

    def __init__(
        self,
        connection: AsyncConnection,
        chain: Chain,
        settings: SchedulerSettings,
        environments: tuple[EnvironmentSpec, ...],
        *,
        inspector: PolicyInspector | None = None,
        rejections: RejectionLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without an `inspector`, as on the dev ledger, whoever commits a policy is taken for its owner."""
        self._connection = connection
        self._chain = chain
        self._settings = settings
        self._environments = environments
        self._inspector = inspector
        self._rejections = rejections or RejectionLog()
        self._clock = clock
        self._auditor = Auditor(connection)

    async def check(self) -> None:
        """Raises `ConfigurationError` when the database is another subnet's."""
        genesis = await self._chain.genesis()
        async with self._connection.begin():
            await check_ledger(self._connection, genesis, self._settings.netuid)

    async def run(self) -> None:
        """Runs cycle after cycle."""
        genesis = await self._chain.genesis()
        await self._report_chain(None)
        async with self._connection.begin():
            await claim_ledger(self._connection, genesis, self._settings.netuid)
        while True:
            cycle = await self._resume() or await self._begin()
            if cycle is not None:
                await self.finish(cycle)

    async def _resume(self) -> OpenCycle | None:
        async with self._connection.begin():
            cycle = await open_cycle(self._connection)
        if cycle is not None:
            log.info("cycle_resumed", cycle_id=cycle.id, status=cycle.status.value)
        return cycle

    async def _begin(self) -> OpenCycle | None:
        """Waits for the next cycle's time, then discovers and plans it. None when there is nothing to evaluate."""
        await self._until_due()
        subnet = await self._subnet(self._settings.netuid)
        discovery = planning.discover(subnet.neurons)
        log.info("commitments_loaded", count=len(discovery.readable), total_miners=len(subnet.neurons))
        admission = await self._admit(discovery.readable)
        turned_away = (*discovery.rejected, *admission.turned_away)
        self._rejections.report(turned_away)
        await self._show(turned_away)
        if not admission.admitted:
            await self._say_no_miners(turned_away)
            await asyncio.sleep(min(self._settings.eval_interval_seconds, 30.0) or self._settings.tick_seconds)
            return None
        return await self.plan(subnet, discovery.readable, admission.admitted, turned_away)

    async def _subnet(self, netuid: int) -> Subnet:
        subnet = await self._chain.subnet(netuid)
        await self._report_chain(None)
        return subnet

    async def _admit(self, readable: tuple[Sighting, ...]) -> ownership.Admission:
        if self._inspector is None:
            return ownership.Admission(readable, ())
        async with self._connection.begin():
            # Before the hub is asked: waiting for it costs nobody a place, not even one who recommits meanwhile.
            await record_sightings(self._connection, readable)
            known = await known_owners(self._connection)
        found = await ownership.inspect(self._inspector, ownership.unseen(readable, known))
        async with self._connection.begin():
            await record_owners(self._connection, found.owners)
        return ownership.admit(readable, known, found)

    async def _until_due(self) -> None:
        """Waits for the next cycle's time, and says when that is."""
        seconds = await self._seconds_until_due()
        if seconds:
            due = datetime.now(UTC) + timedelta(seconds=seconds)
            await self._notice("next", f"The next cycle is due at {due:%Y-%m-%d %H:%M:%S} UTC.")
            await asyncio.sleep(seconds)
        await self._notice("next", None)

    async def _notice(self, topic: str, text: str | None) -> None:
        async with self._connection.begin():
            await set_notice(self._connection, topic, text)

    async def _seconds_until_due(self) -> float:
        async with self._connection.begin():
            age = await seconds_since_last_start(self._connection)
        return 0.0 if age is None else max(0.0, self._settings.eval_interval_seconds - age)

    async def _say_no_miners(self, turned_away: tuple[MinerEntry, ...]) -> None:
        text = NO_MINERS.format(netuid=self._settings.netuid, network=shown_network(self._settings.network))
        if turned_away:
            listed = "; ".join(f"uid {miner.uid}: {miner.reason}" for miner in turned_away[:_SHOWN])
            text += f" {len(turned_away)} can't take part. {listed}" + (" ..." if turned_away[_SHOWN:] else "")
        log.warning(text)
        await self._notice("miners", text)

    async def _show(self, turned_away: tuple[MinerEntry, ...]) -> None:
        waiting = [miner for miner in turned_away if miner.state is MinerState.QUEUED]
        text = f"Waiting for the hub, for {len(waiting)} miners. {waiting[0].reason}" if waiting else None
        if text:
            log.warning("hub_trouble", reason=text)
        async with self._connection.begin():
            await replace_turned_away(self._connection, turned_away)
            await set_notice(self._connection, "hub", text)

    async def plan(
        self,
        subnet: Subnet,
        readable: tuple[Sighting, ...],
        admitted: tuple[Sighting, ...],
        turned_away: tuple[MinerEntry, ...],
    ) -> OpenCycle:
        """Freezes a cycle: miners in line, environments, rule, and the salt whose hash is published now.

        `turned_away` is listed, not evaluated; those of them that are `readable` are remembered as seen.
        """
        genesis = await self._chain.genesis()
        salt = secrets.token_bytes(32)
        async with self._connection.begin():
            submissions = await record_sightings(self._connection, readable)
            line = planning.line_up(admitted, submissions, await self._known_files())
            seekers = planning.place_seekers(line, turned_away, submissions)
            placed = planning.with_places(line, await give_places(self._connection, seekers))
            await set_notice(self._connection, "miners", None)
            await forget_claims(self._connection)
            await forget_executors(self._connection)
            await forget_steps(self._connection, self._settings.steps_kept_cycles)
            plan = CyclePlan(
                block_number=subnet.block,
                netuid=subnet.netuid,
                genesis=genesis,
                salt=salt,
                salt_sha256=salt_digest(salt),
                target_block=await self._chain.finalized_block() + TARGET_DISTANCE,
                episodes_per_env=self._settings.episodes_per_env,
                environments={spec.env_id: spec.version for spec in self._environments},
                rule=_rule(self._settings),
                miner_time_budget_s=self._settings.miner_time_budget_seconds,
                timeout_s=self._settings.cycle_timeout_seconds,
                task_max_attempts=self._settings.task_max_attempts,
                miners=(*placed, *planning.with_submissions(turned_away, submissions)),
            )
            cycle_id = await insert_plan(self._connection, plan)
        log.info("cycle_planned", cycle_id=cycle_id, target_block=plan.target_block, salt_sha256=plan.salt_sha256)
        return OpenCycle(cycle_id, CycleStatus.PENDING, plan, 0.0)

    async def _known_files(self) -> dict[tuple[str, str], str]:
        """The tree digest of each (lower-case repo, revision) of which it is agreed."""
        executors = await executors_to_ask(self._connection)
        claims = await latest_claims(self._connection)
        agreed = {policy: files.agreed_digest(said, executors) for policy, said in claims.items()}
        return {policy: digest for policy, digest in agreed.items() if digest is not None}

    async def finish(self, cycle: OpenCycle) -> None:
        """Takes an open cycle to its end."""
        if cycle.status is CycleStatus.PENDING and not await self.start(cycle):
            return
        await self.wait(cycle)
        await self.publish(cycle)

    async def start(self, cycle: OpenCycle) -> bool:
        """Waits for the target block, then creates the tasks. False when the chain stalled and the cycle failed."""
        block_hash = await self._target_hash(cycle)
        if block_hash is None:
            return False
        tasks = planning.plan_tasks(
            cycle.plan.miners,
            tuple(cycle.plan.environments),
            cycle.plan.episodes_per_env,
            cycle.plan.salt,
            block_hash,
            audit_rate=self._settings.audit_rate,
        )
        async with self._connection.begin():
            total = await create_tasks(self._connection, cycle.id, tasks)
            await mark_running(self._connection, cycle.id, block_hash)
        log.info("tasks_created", cycle_id=cycle.id, total_tasks=total)
        return True

    async def _target_hash(self, cycle: OpenCycle) -> str | None:
        head, moved = -1, Watch(self._clock)
        while True:
            try:
                latest = await self._chain.finalized_block()
                if latest >= cycle.plan.target_block:
                    return await self._chain.block_hash(cycle.plan.target_block)
            except ChainUnreachable as error:
                await self._report_chain(str(error))
                latest = head
            else:
                await self._report_chain(None)
            if latest > head:
                head = latest
                moved.lap()
            elif moved.age > STALLED_AFTER_S:
                await self._fail(cycle, f"the chain finalized no block for {STALLED_AFTER_S:.0f} s (at block {head})")
                return None
            await asyncio.sleep(self._settings.tick_seconds)

    async def _report_chain(self, problem: str | None) -> None:
        if problem:
            log.warning("chain_unreachable", reason=problem)
        await self._notice("chain", problem)

    async def wait(self, cycle: OpenCycle) -> None:
        """Returns when every task is closed: by a verdict, by its last attempt, or by the cycle's timeout.

        Audits are waited for too, while runs of them are under way, for `audit_grace_seconds` at most; the rest lapses.
        With the timeout all of them do, at once: what they withdrew could not be run again, at the miner's cost.
        """
        watch, done = Watch(self._clock), Watch(self._clock)
        while True:
            timed_out = await self._keep_going(cycle, watch.lap())
            async with self._connection.begin():
                is_audited = not timed_out and await self._auditor.advance(cycle.id)
                if not (await progress(self._connection, cycle.id)).finished:
                    done.lap()
                elif not is_audited or done.age > self._settings.audit_grace_seconds:
                    await self._auditor.lapse(cycle.id)
                    return
            await asyncio.sleep(self._settings.tick_seconds)

    async def _keep_going(self, cycle: OpenCycle, up_s: float) -> bool:
        """Does what time alone brings about; true when the cycle's time is over."""
        async with self._connection.begin():
            active_s = await add_active_time(self._connection, cycle.id, up_s)
            await expire_leases(self._connection, cycle.id)
            await close_over_budget(self._connection, cycle.id)
            if timed_out := active_s > cycle.plan.timeout_s:
                reason = f"cycle timed out after {cycle.plan.timeout_s:.0f} s"
                await fail_remaining(self._connection, cycle.id, reason)
        return timed_out

    async def publish(self, cycle: OpenCycle) -> None:
        """Scores and publishes in one transaction, so that weights exist exactly when the cycle is completed."""
        subnet = await self._subnet(cycle.plan.netuid)
        async with self._connection.begin():
            if not await lock_running(self._connection, cycle.id):
                return
            reason = await self._close(cycle, subnet)
            if reason is not None:
                await fail_cycle(self._connection, cycle.id, reason)
        if reason is None:
            log.info("cycle_completed", cycle_id=cycle.id)
        else:
            log.error("cycle_failed", cycle_id=cycle.id, reason=reason)

    async def _close(self, cycle: OpenCycle, subnet: Subnet) -> str | None:
        """Scores and completes the cycle, or says why that can't be done, having written nothing."""
        now = await progress(self._connection, cycle.id)
        if now.failed > publishing.MAX_FAILED_SHARE * now.total:
            return f"{now.failed} of {now.total} episodes could not be evaluated (more than 5 %)"
        export = await load_export(self._connection, cycle.id)
        claims = await file_claims(self._connection, cycle.id)
        agreed = files.agreed_files(claims, await executors_to_ask(self._connection))
        first_seen = await first_blocks(self._connection, cycle.id)
        try:
            closing = publishing.close(
                cycle,
                export,
                subnet,
                first_seen=first_seen,
                files=agreed,
                weights_lifetime_blocks=self._settings.weights_lifetime_blocks,
            )
        except KinitroError as error:
            # The same verdicts lead to the same error: trying again would hold up every later cycle.
            return f"it could not be scored: {error.message}"
        await complete_cycle(self._connection, cycle, closing)
        await set_notice(self._connection, "images", publishing.image_notice(export))
        await set_notice(self._connection, "files", files.file_notice(cycle.id, claims, agreed))
        return None

    async def _fail(self, cycle: OpenCycle, reason: str) -> None:
        async with self._connection.begin():
            await fail_cycle(self._connection, cycle.id, reason)
        log.error("cycle_failed", cycle_id=cycle.id, reason=reason)


def _rule(settings: SchedulerSettings) -> RuleOut:
    return RuleOut(
        alpha=settings.evidence_alpha,
        min_improvement=settings.min_improvement,
        epsilon=settings.pareto_epsilon,
        temperature=settings.pareto_temperature,
        burn_uid=settings.burn_uid,
    )

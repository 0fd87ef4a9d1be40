"""The executor's loops: lease tasks while there is room, run them, pause when it is itself broken, end in order.

Cancelling `run` is the request to end: nothing new is leased, queued tasks go back, running episodes get a grace
period, and results are submitted before it returns.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kinitro.deployments import DeploymentManager
from kinitro.errors import ApiError, ApiUnreachable, ConfigurationError, KinitroError
from kinitro.executor.episodes import EpisodeRunner, Outcome, submission
from kinitro.executor.faults import FaultCounter
from kinitro.executor.leases import Held, Leases
from kinitro.executor.link import ApiLink
from kinitro.executor.outbox import Outbox
from kinitro.executor.selftest import SelfTest
from kinitro.logs import get_logger, mask, printable
from kinitro.types import PolicyRef

T = TypeVar("T")
_log = get_logger("executor")
_STALE_S = 60.0
_LOOK_AGAIN_S = 1.0
_MAX_REASON = 500
NO_ENDPOINT = (
    "No miner endpoint available: miner deployments are switched off here and the task names no endpoint. "
    "Set KINITRO_EXECUTOR_MINER_DEPLOYMENT_ENABLED=true, and check that the miner has a valid miner_repo and "
    "miner_revision."
)
ENDPOINT_OUT_OF_REACH = (
    "The task names a policy server of its own (miner_endpoint), which environments in containers can't call: they "
    "have no way out. Leave it null and this executor deploys the policy, or run one with --eval-mode process for it."
)


@dataclass(frozen=True)
class ExecutorLimits:
    """How much at once, and how long. `max_queued` bounds the tasks leased ahead of their turn.

    `deploys`: policies are started here. `calls_out`: environments can call policy servers that run elsewhere.
    """

    max_concurrent: int
    max_queued: int
    poll_interval_s: float
    shutdown_grace_s: float
    deploys: bool
    calls_out: bool


@dataclass(eq=False)
class _Job:
    """One task being worked on. It warms until its policy is up."""

    held: Held
    task: "asyncio.Task[None]"
    warming: bool = True


class Executor:
    """Works until cancelled. Made by `build_executor`."""

    def __init__(
        self,
        *,
        limits: ExecutorLimits,
        rooms: Mapping[str, int | None],
        env_ids: Sequence[str],
        link: ApiLink,
        leases: Leases,
        outbox: Outbox,
        deployments: DeploymentManager,
        runner: EpisodeRunner,
        selftest: SelfTest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._rooms = rooms
        self._env_ids = env_ids
        self._link = link
        self._leases = leases
        self._outbox = outbox
        self._deployments = deployments
        self._runner = runner
        self._selftest = selftest
        self._clock = clock
        self._jobs: set[_Job] = set()
        self._faults = FaultCounter()
        self._healthy = asyncio.Event()
        self._healthy.set()
        self._pause_reason = "unknown"
        self._changed = asyncio.Event()
        self._ending = False

    async def run(self) -> None:
        """Works until cancelled. Raises `ConfigurationError` when the API refuses this executor."""
        try:
            async with asyncio.TaskGroup() as services:
                upkeep = [services.create_task(self._leases.run()), services.create_task(self._outbox.run())]
                try:
                    await _together(self._fetch(), self._dispatch(), self._mend())
                finally:
                    await self._wind_up()
                    for task in upkeep:
                        task.cancel()
        except BaseExceptionGroup as group:
            raise _first_of(group) from None

    # Leasing

    async def _fetch(self) -> None:
        pause_s = self._limits.poll_interval_s
        while True:
            if not self._healthy.is_set():
                await self._sit_out()
                continue
            room = self._limits.max_queued - sum(1 for _ in self._leases.queued())
            if room <= 0 or (room <= self._limits.max_queued // 2 and not self._is_idle()):
                await self._until_changed()
            elif not await self._fetch_some(min(room, 100)):
                # Not for security: executors must not all look at the same moment.
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 - no secret

    async def _sit_out(self) -> None:
        """While paused: says so and why, as often as it would ask for work."""
        with contextlib.suppress(ApiUnreachable, ApiError):
            await self._link.pause(printable(mask(self._pause_reason))[:_MAX_REASON])
        # Not wait_for: before Python 3.12 it may swallow a cancellation that comes together with the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.poll_interval_s):
                await self._healthy.wait()

    def _is_idle(self) -> bool:
        """Whether a slot is free that nothing queued can take: what waits there is for policies that are busy."""
        return self._healthy.is_set() and len(self._jobs) < self._limits.max_concurrent and self._next() is None

    async def _fetch_some(self, count: int) -> bool:
        """Leases tasks; false when there is reason to wait before the next look."""
        try:
            tasks = (await self._link.fetch(count, self._env_ids)).tasks
        except ApiUnreachable:
            return False
        except ApiError as error:
            _log.error("fetch_refused", error=str(error))
            return False
        self._leases.add(tasks)
        useless = [held for held in self._leases.queued() if self._refusal(held)]
        if useless:
            for reason, refused in Counter(map(self._refusal, useless)).items():
                _log.error("tasks_released", count=refused, reason=reason)
            await self._leases.release(useless)
        self._tell_all()
        return len(tasks) > len(useless)

    def _refusal(self, held: Held) -> str | None:
        """Why it can't run here; None when it can."""
        if held.task.miner_endpoint is None:
            return None if self._limits.deploys else NO_ENDPOINT
        return None if self._limits.calls_out else ENDPOINT_OUT_OF_REACH

    # Running

    async def _dispatch(self) -> None:
        while True:
            while (held := self._next()) is not None:
                self._begin(held)
                self._tell_all()
            await self._until_changed()
            await self._release_stale()

    def _next(self) -> Held | None:
        """The first queued task that can begin at once."""
        warming = sum(job.warming for job in self._jobs)
        # One start more than there are slots: a policy that never gets ready must not hold everybody up.
        if not self._healthy.is_set() or len(self._jobs) >= self._limits.max_concurrent + min(warming, 1):
            return None
        busy = Counter(_ref(job.held) for job in self._jobs)
        return next((held for held in self._leases.queued() if self._fits(held, busy)), None)

    def _fits(self, held: Held, busy: Counter[PolicyRef]) -> bool:
        if any(job.held is held for job in self._jobs):
            return False
        if held.task.miner_endpoint is not None:
            return True
        return busy[_ref(held)] < self._deployments.slots(_ref(held)) and self._host_has_room(_ref(held))

    def _host_has_room(self, ref: PolicyRef) -> bool:
        """Whether the host of this policy's server has processors for one more episode; true before it has one."""
        host = self._deployments.host(ref)
        room = self._rooms.get(host) if host is not None else None
        jobs = (job for job in self._jobs if not job.warming)
        return room is None or sum(self._deployments.host(_ref(job.held)) == host for job in jobs) < room

    def _begin(self, held: Held) -> None:
        job = _Job(held, asyncio.create_task(self._work(held)))
        job.warming = held.task.miner_endpoint is None and not self._deployments.is_ready(_ref(held))
        self._jobs.add(job)
        job.task.add_done_callback(lambda _: self._on_done(job))

    def _on_done(self, job: _Job) -> None:
        self._jobs.discard(job)
        self._tell_all()

    async def _work(self, held: Held) -> None:
        """One task from its start to the outbox; ends early when its lease is lost."""
        try:
            if not await self._leases.start(held):
                return
        except (ApiUnreachable, ApiError, ConfigurationError):
            # The lease stays; a refusal for good ends the executor where it fetches.
            await asyncio.sleep(_LOOK_AGAIN_S)
            return
        outcome = await _unless(held.lost, self._runner.run(held.task, lambda: self._on_deployed(held)))
        if outcome is not None and self._ending and _may_be_our_end(outcome):
            await self._leases.release([held])
        elif outcome is not None:
            self._report(held, outcome)

    def _on_deployed(self, held: Held) -> None:
        for job in self._jobs:
            if job.held is held:
                job.warming = False
        self._tell_all()

    def _report(self, held: Held, outcome: Outcome) -> None:
        task, result = held.task, outcome.result
        self._outbox.put(submission(task, outcome))
        trouble = {}
        if result.error is not None:
            trouble = {"error": result.error.partition("\n")[0][:300], "error_kind": result.error_kind}
        _log.info(
            "task_executed",
            score=result.score,
            success=result.success,
            task_uuid=str(task.task_uuid),
            env_id=task.env_id,
            miner_uid=task.miner_uid,
            **trouble,
        )
        if self._faults.record(outcome.fault) and self._healthy.is_set():
            self._pause_reason = f"{self._faults.count} infrastructure faults of one kind: {outcome.fault}"
            self._healthy.clear()
            self._tell_all()

    async def _release_stale(self) -> None:
        """Gives back what has waited long: its lease can't be renewed for ever, and another executor may be free."""
        now = self._clock()
        working = {job.held for job in self._jobs}
        stale = [held for held in self._leases.queued() if held not in working and now - held.since >= _STALE_S]
        if stale:
            await self._leases.release(stale)

    # Its own health

    async def _mend(self) -> None:
        """While paused: gives queued tasks back and tests itself until it passes."""
        while True:
            if self._healthy.is_set():
                await self._until_changed()
                continue
            kind = self._faults.kind or "unknown"
            _log.error("executor_paused", reason=self._pause_reason)
            await self._release_queued()
            while not await self._passes(kind):
                pass
            self._faults.resume()
            _log.info("executor_resumed")
            self._healthy.set()

    async def _passes(self, kind: str) -> bool:
        await asyncio.sleep(self._faults.pause_s)
        try:
            await self._selftest.run(kind)
        except KinitroError as error:
            _log.error("selftest_failed", error=str(error))
            self._pause_reason = f"its self-test fails: {error.message}"
            self._faults.resume()
            return False
        return True

    # Ending

    async def _wind_up(self) -> None:
        self._ending = True
        if self._link.refused:
            await self._cancel_jobs()
            return
        await self._release_queued()
        if self._jobs:
            _log.info("executor_stopping", running=len(self._jobs), grace_s=self._limits.shutdown_grace_s)
            await asyncio.wait([job.task for job in self._jobs], timeout=self._limits.shutdown_grace_s)
        unfinished = [job.held for job in self._jobs]
        await self._cancel_jobs()
        await self._leases.release(unfinished)
        await self._outbox.flush(self._limits.shutdown_grace_s)

    async def _release_queued(self) -> None:
        working = {job.held for job in self._jobs}
        await self._leases.release([held for held in self._leases.queued() if held not in working])

    async def _cancel_jobs(self) -> None:
        jobs = [job.task for job in self._jobs]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    def _tell_all(self) -> None:
        """Wakes everyone who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until_changed(self) -> None:
        """Waits for a change, or a while: what only time changes is looked at again too."""
        # Not wait_for: before Python 3.12 it may swallow a cancellation that comes together with the change.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN_S):
                await self._changed.wait()


def _may_be_our_end(outcome: Outcome) -> bool:
    """While ending: whoever ends us may have ended the servers too, a moment before."""
    return outcome.fault is not None or outcome.code in ("died", "died_at_start", "disconnected")


def _ref(held: Held) -> PolicyRef:
    return PolicyRef(held.task.miner_repo.lower(), held.task.miner_revision)


async def _together(*loops: Coroutine[None, None, None]) -> None:
    async with asyncio.TaskGroup() as group:
        for loop in loops:
            group.create_task(loop)


async def _unless(event: asyncio.Event, work: Coroutine[None, None, T]) -> T | None:
    """The work's result, or None when the event came first and the work was cancelled."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


def _first_of(error: BaseException) -> BaseException:
    """The one error to report of a group: one meant for a person before any other."""
    leaves = list(_leaves(error))
    return next((leaf for leaf in leaves if isinstance(leaf, KinitroError)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error

"""Running policy servers, cached by `(repo, revision)`: when one is started, shared, replaced and stopped."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

from kinitro.backends.base import Backend
from kinitro.deployments.memory import HostMemory
from kinitro.deployments.snapshots import SnapshotStore
from kinitro.deployments.starts import Deployment, DeploymentSettings, Key, Starter, key_of
from kinitro.errors import InfrastructureError, PolicyError
from kinitro.logs import get_logger
from kinitro.policy.client import PolicyClient
from kinitro.types import ErrorKind, PolicyRef

_log = get_logger("deployments")
_LOG_LINES = 15
_PROBE_TIMEOUT_S = 2.0
_EXIT_LOOKS = 20
_LINGER_S = 0.5
_MEMORY_WAIT_S = 60.0


@dataclass(eq=False)
class _Entry:
    """One deployment from its start to its end. `users` counts the leases out on it.

    Between its episodes it is paused; `awake` guards the change.
    """

    ref: PolicyRef
    start: "asyncio.Task[Deployment]"
    began: float = 0.0
    ready: float = 0.0
    users: int = 0
    last_used: float = 0.0
    ending: "asyncio.Task[None] | None" = None
    awake: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def deployment(self) -> Deployment | None:
        """None until it is ready."""
        done = self.start.done() and not self.start.cancelled() and self.start.exception() is None
        return self.start.result() if done else None

    @property
    def slots(self) -> int:
        """How many episodes may run on it at once; one while it starts."""
        return self.deployment.health.max_concurrent_episodes if self.deployment else 1


class DeploymentManager:
    """Hands out leases on policy servers. An async context manager: leaving it stops every server.

    Everything here runs on one event loop; between two awaits its state is consistent.
    """

    def __init__(
        self,
        backend: Backend,
        store: SnapshotStore,
        settings: DeploymentSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._clock = clock
        self._entries: dict[Key, _Entry] = {}
        self._starter = Starter(backend, store, settings, clock)
        self._room = asyncio.Semaphore(settings.capacity)
        self._memory = HostMemory(backend, settings.limits.memory_bytes)
        self._changed = asyncio.Condition()
        self._background: set[asyncio.Task[None]] = set()
        self._reaper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reaper = asyncio.create_task(self._reap())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def slots(self, ref: PolicyRef) -> int:
        """How many episodes of this policy may run at once; one until its server is ready."""
        entry = self._entries.get(key_of(ref))
        return 1 if entry is None else entry.slots

    def is_ready(self, ref: PolicyRef) -> bool:
        """Whether its server is up, so that an episode needs no start."""
        entry = self._entries.get(key_of(ref))
        return entry is not None and entry.deployment is not None

    def host(self, ref: PolicyRef) -> str | None:
        """The host of this policy's server; None until it is ready."""
        entry = self._entries.get(key_of(ref))
        return entry.deployment.running.host if entry is not None and entry.deployment is not None else None

    def bill_starts(self, ref: PolicyRef) -> float:
        """Seconds of starts that were of the policy's own making, since this was asked last (docs/decisions/0020)."""
        return self._starter.bill(ref)

    @asynccontextmanager
    async def lease(self, ref: PolicyRef, miner_uid: int) -> AsyncIterator[Deployment]:
        """One episode's use of the policy's server, started if needed; waits while all its slots are taken.

        A block that ends by an exception, or after `retire`, leaves no later lease on the same server: a retry gets
        a fresh one.

        Raises:
            PolicyError: snapshot faults; `died_at_start`; `not_ready`, beginning "Miner deployment not ready".
            InfrastructureError: the hub, the disk or the backend failed.
        """
        entry, deployment = await self._acquire(ref, miner_uid)
        try:
            yield deployment
        except BaseException:
            self._forget(entry)
            raise
        finally:
            entry.users -= 1
            entry.last_used = self._clock()
            self._end_if_unused(entry)
            self._in_background(self._rest(entry))
            await self._notify()

    async def probe(self, deployment: Deployment, blamed: ErrorKind) -> None:
        """After an episode that went wrong: a server that no longer answers is given to nobody else."""
        try:
            client = PolicyClient(deployment.running.own_url, authorization=deployment.running.authorization)
            async with client:
                await client.health(_PROBE_TIMEOUT_S)
        except PolicyError:
            if blamed is ErrorKind.POLICY:
                self._starter.blame(deployment.ref)
            self.retire(deployment)
            await self._until_exit_is_seen(deployment)

    async def _until_exit_is_seen(self, deployment: Deployment) -> None:
        """A broken connection is seen before the exit that broke it, which says more to the policy's owner."""
        for _ in range(_EXIT_LOOKS):
            if await deployment.running.exit_code() is not None:
                return
            await asyncio.sleep(0.05)

    async def verify(self, deployment: Deployment) -> None:
        """Raises `PolicyError` (`died`) when the server has ended or was replaced since it was handed out."""
        code = await deployment.running.exit_code()
        if code is None and deployment.running.identity == deployment.identity:
            return
        self._starter.blame(deployment.ref)
        self.retire(deployment)
        logs = await deployment.running.logs(_LOG_LINES)
        raise PolicyError(f"The policy's server ended with exit code {code}. Its last output:\n{logs}", code="died")

    def retire(self, deployment: Deployment) -> None:
        """Gives no further lease on this server; it ends when its present leases do."""
        entry = self._entries.get(key_of(deployment.ref))
        if entry is not None and entry.deployment is deployment:
            self._forget(entry)

    async def close(self) -> None:
        """Stops every server. Safe to call twice."""
        if self._reaper is not None:
            self._reaper.cancel()
            await asyncio.gather(self._reaper, return_exceptions=True)
        for entry in list(self._entries.values()):
            entry.start.cancel()
            await asyncio.gather(entry.start, return_exceptions=True)
            self._forget(entry)
            self._begin_end(entry)
        await asyncio.gather(*self._background)

    async def _acquire(self, ref: PolicyRef, miner_uid: int) -> tuple[_Entry, Deployment]:
        while True:
            self._starter.raise_remembered(ref)
            entry = await self._living_entry(ref)
            if entry is None:
                return await self._take(self._new_entry(ref, miner_uid))
            if entry.deployment is None:
                # Everyone who asks meanwhile waits for the one start, and hears of its failure.
                await asyncio.shield(entry.start)
            elif entry.users < entry.slots:
                _log.info("deployment_cache_hit", repo=ref.repo, revision=ref.revision)
                return await self._take(entry)
            else:
                await self._wait_for_change()

    async def _take(self, entry: _Entry) -> tuple[_Entry, Deployment]:
        """Counts a user before waiting, so that nobody evicts what was started for it."""
        entry.users += 1
        try:
            # One who gives up must not stop the start for the others.
            deployment = await asyncio.shield(entry.start)
            async with entry.awake:
                await deployment.running.resume()
            return entry, deployment
        except BaseException:
            entry.users -= 1
            self._in_background(self._rest(entry))
            await self._notify()
            raise

    async def _rest(self, entry: _Entry) -> None:
        """Pauses a server that nobody has used for a moment: only episodes and warm-ups may compute."""
        await asyncio.sleep(_LINGER_S)
        async with entry.awake:
            used_since = self._clock() - entry.last_used < _LINGER_S
            if entry.users or used_since or entry.ending is not None or entry.deployment is None:
                return
            try:
                await entry.deployment.running.pause()
            except InfrastructureError as error:
                _log.warning("deployment_not_paused", repo=entry.ref.repo, error=str(error))

    async def _living_entry(self, ref: PolicyRef) -> _Entry | None:
        entry = self._entries.get(key_of(ref))
        if entry is None or entry.deployment is None:
            return entry
        if self._clock() - entry.ready < self._settings.max_age_s:
            blamed = await _whose_end(entry.deployment)
            if blamed is None:
                # It may have been retired during the await.
                return self._entries.get(key_of(ref))
            if blamed is ErrorKind.POLICY:
                self._starter.blame(ref)
        self._forget(entry)
        self._end_if_unused(entry)
        return self._entries.get(key_of(ref))

    def _new_entry(self, ref: PolicyRef, miner_uid: int) -> _Entry:
        now = self._clock()
        entry = _Entry(ref, asyncio.create_task(self._start(ref, miner_uid)), began=now, last_used=now)
        entry.start.add_done_callback(lambda _: self._on_started(entry))
        self._entries[key_of(ref)] = entry
        return entry

    def _on_started(self, entry: _Entry) -> None:
        """A failed start leaves nothing behind but its verdict."""
        if entry.deployment is not None:
            entry.ready = entry.last_used = self._clock()
            # Whoever it was started for may have given up.
            self._in_background(self._rest(entry))
            return
        self._forget(entry)
        if entry.start.cancelled():
            return
        self._starter.remember(entry.ref, entry.start.exception(), self._clock() - entry.began)

    async def _start(self, ref: PolicyRef, miner_uid: int) -> Deployment:
        await self._make_room()
        try:
            deployment = await self._starter.start(ref)
        except BaseException:
            self._room.release()
            await self._notify()
            raise
        _log.info("miner_deployment_created", miner_uid=miner_uid, repo=ref.repo, url=deployment.url)
        await self._notify()
        return deployment

    async def _make_room(self) -> None:
        """Waits until one more server may exist; those unused for longest make way, for their memory too.

        `InfrastructureError` (`host_memory`) when every host stays short of it for a minute.
        """
        while self._room.locked():
            if not await self._evict():
                await self._wait_for_change()
        await self._room.acquire()
        while not await self._memory.fits() and await self._evict():
            pass
        end = self._clock() + _MEMORY_WAIT_S
        while len(await self._memory.short()) == len(self._backend.hosts):
            if self._clock() >= end:
                self._room.release()
                raise InfrastructureError(
                    "No host has memory left for another policy's server.",
                    code="host_memory",
                    advice="Lower --max-concurrent, or give the host more memory.",
                )
            await self._wait_for_change()

    async def _evict(self, host: str | None = None) -> bool:
        """Ends the server unused for longest, of this host if one is given; false when all are in use."""
        idle = [
            entry
            for entry in self._entries.values()
            if entry.users == 0 and entry.deployment is not None and host in (None, entry.deployment.running.host)
        ]
        if not idle:
            return False
        oldest = min(idle, key=lambda entry: entry.last_used)
        self._forget(oldest)
        await self._begin_end(oldest)
        return True

    def _forget(self, entry: _Entry) -> None:
        if self._entries.get(key_of(entry.ref)) is entry:
            del self._entries[key_of(entry.ref)]

    def _end_if_unused(self, entry: _Entry) -> None:
        if entry.users == 0 and self._entries.get(key_of(entry.ref)) is not entry and entry.deployment is not None:
            self._begin_end(entry)

    def _begin_end(self, entry: _Entry) -> "asyncio.Task[None]":
        """Ends it once, whoever else saw that it must end."""
        if entry.ending is None:
            entry.ending = self._in_background(self._end(entry))
        return entry.ending

    def _in_background(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _end(self, entry: _Entry) -> None:
        if entry.deployment is None:
            return
        try:
            async with entry.awake:
                await entry.deployment.running.stop()
        finally:
            entry.deployment.files.release()
            self._room.release()
            await self._notify()

    async def _reap(self) -> None:
        """Ends what nobody has used for its time to live, and what died by itself."""
        while True:
            await asyncio.sleep(max(0.05, min(self._settings.ttl_s / 4, 5.0)))
            now = self._clock()
            for entry in list(self._entries.values()):
                if entry.users == 0 and entry.deployment is not None and now - entry.last_used >= self._settings.ttl_s:
                    self._forget(entry)
                    self._begin_end(entry)
            for host in await self._memory.short():
                await self._evict(host)
            self._starter.forget_old()

    async def _wait_for_change(self) -> None:
        async with self._changed:
            # A deadline, so that a server that died unseen is looked at again. Not wait_for: before Python 3.12 it may
            # swallow a cancellation that comes together with the change.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._changed.wait()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _whose_end(deployment: Deployment) -> ErrorKind | None:
    """Who ended it; None while it runs."""
    try:
        return None if await deployment.running.exit_code() is None else ErrorKind.POLICY
    except InfrastructureError:  # it was ended from outside
        return ErrorKind.INFRASTRUCTURE

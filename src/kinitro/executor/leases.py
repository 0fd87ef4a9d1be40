"""The tasks this executor holds, and the heartbeats that keep them its own.

The lease's length is read once, when a task comes, as a duration; whether a lease still holds is for the API alone to
say. The executor's clock may be wrong by any amount: the length is kept between bounds within which renewing every
third of it is right for any sensible lease.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from kinitro.errors import ApiError, ApiUnreachable
from kinitro.executor.link import ApiLink
from kinitro.logs import get_logger
from kinitro.schemas import LeaseRef, TaskOut

_log = get_logger("executor")
_MIN_LEASE_S = 3.0
_MAX_LEASE_S = 60.0
_RETRY_S = 2.0
_BATCH = 1000


@dataclass(eq=False)
class Held:
    """One leased task. It is queued until `started`; a result that waits to be submitted is still held."""

    task: TaskOut
    since: float
    started: bool = False
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    def ref(self) -> LeaseRef:
        """How the API knows this lease."""
        return LeaseRef(
            task_uuid=self.task.task_uuid, lease_token=self.task.lease_token, started=True if self.started else None
        )


class Leases:
    """What is held, by task. `run` keeps it alive until cancelled."""

    def __init__(self, link: ApiLink, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._clock = clock
        self._held: dict[UUID, Held] = {}
        self._lease_s = _MAX_LEASE_S
        self._added = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held)

    def queued(self) -> Iterator[Held]:
        """What is held and not started, in the order it came."""
        return (held for held in list(self._held.values()) if not held.started)

    def add(self, tasks: Iterable[TaskOut]) -> None:
        """Takes tasks just leased."""
        for task in tasks:
            left_s = (task.lease_expires_at - datetime.now(UTC)).total_seconds()
            self._lease_s = min(max(left_s, _MIN_LEASE_S), _MAX_LEASE_S)
            self._held[task.task_uuid] = Held(task, self._clock())
        self._added.set()

    def drop(self, lease: LeaseRef) -> None:
        """Holds it no longer: it was submitted, released or lost. A later lease on the same task stays."""
        held = self._held.get(lease.task_uuid)
        if held is not None and held.task.lease_token == lease.lease_token:
            del self._held[lease.task_uuid]

    async def start(self, held: Held) -> bool:
        """Tells the API that this episode begins; false when the lease is lost.

        Nothing begins without the API's word: an attempt that it does not count could kill executors for ever.
        Raises `ApiUnreachable`; the task then stays queued.
        """
        held.started = True
        try:
            answer = await self._link.heartbeat([held.ref()])
        except BaseException:
            held.started = False
            raise
        self._lose(answer.lost)
        return not held.lost.is_set()

    async def release(self, helds: Iterable[Held]) -> None:
        """Gives tasks back; when the API is away their leases run out instead."""
        helds = list(helds)
        for held in helds:
            self.drop(held.ref())
        for batch in _batches([held.ref() for held in helds]):
            try:
                await self._link.release(batch)
            except (ApiUnreachable, ApiError) as error:
                _log.warning("tasks_not_released", count=len(batch), error=str(error))

    async def run(self) -> None:
        """Renews every lease at a third of its length, for ever."""
        pause_s = self._lease_s / 3
        while True:
            if not self._held:
                self._added.clear()
                await self._added.wait()
                pause_s = self._lease_s / 3
            await asyncio.sleep(pause_s)
            pause_s = self._lease_s / 3 if await self._beat() else min(_RETRY_S, self._lease_s / 3)

    async def _beat(self) -> bool:
        """One heartbeat for everything; false when the API is away."""
        for batch in _batches([held.ref() for held in self._held.values()]):
            try:
                self._lose((await self._link.heartbeat(batch)).lost)
            except ApiUnreachable:
                return False
            except ApiError as error:
                _log.error("heartbeat_refused", error=str(error))
        return True

    def _lose(self, lost: Iterable[UUID]) -> None:
        for task_uuid in lost:
            held = self._held.pop(task_uuid, None)
            if held is not None:
                _log.warning("lease_lost", task_uuid=str(task_uuid), env_id=held.task.env_id)
                held.lost.set()


def _batches(refs: list[LeaseRef]) -> Iterator[list[LeaseRef]]:
    for begin in range(0, len(refs), _BATCH):
        yield refs[begin : begin + _BATCH]

"""Results on their way to the API: none is lost while this process lives, however long the API is away."""

import asyncio
import random
from collections import deque
from collections.abc import Callable

from kinitro.errors import ApiError, ApiUnreachable
from kinitro.executor.link import ApiLink
from kinitro.logs import get_logger
from kinitro.schemas import LeaseRef, ResultIn

_log = get_logger("executor")
_BATCH = 100
_MOST_STEPS_BYTES = 2 * 2**20  # of the 4 MiB that the API takes
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 15.0


class Outbox:
    """Submits results in their order, each as soon as it comes. `on_settled` is told of each that the API answered."""

    def __init__(self, link: ApiLink, on_settled: Callable[[LeaseRef], None]) -> None:
        self._link = link
        self._on_settled = on_settled
        self._waiting: deque[ResultIn] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, result: ResultIn) -> None:
        """Takes a result; it is submitted by `run`."""
        self._waiting.append(result)
        self._emptied.clear()
        self._filled.set()

    async def run(self) -> None:
        """Submits until cancelled, with growing pauses while the API is away."""
        pause_s = _FIRST_PAUSE_S
        while True:
            await self._filled.wait()
            try:
                await self._submit(self._next_batch())
                pause_s = _FIRST_PAUSE_S
            except ApiUnreachable:
                # Not for security: executors must not all come back at the same moment.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def flush(self, deadline_s: float) -> bool:
        """Waits until everything is submitted; false when it was not within the deadline."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._emptied.wait()
        except TimeoutError:
            _log.warning("results_not_submitted", count=len(self._waiting), note="their tasks will be run again")
            return False
        return True

    def _next_batch(self) -> list[ResultIn]:
        """At least one, and as many as the API takes in one request."""
        batch: list[ResultIn] = []
        size = 0
        for result in self._waiting:
            size += len(result.record.steps or "") if result.record else 0
            if batch and (size > _MOST_STEPS_BYTES or len(batch) == _BATCH):
                break
            batch.append(result)
        return batch

    async def _submit(self, batch: list[ResultIn]) -> None:
        try:
            answer = await self._link.submit(batch)
        except ApiError as error:
            if len(batch) > 1:
                # One of them is unacceptable; alone, each of the others is taken.
                for result in batch:
                    await self._submit([result])
                return
            _log.error("result_refused", task_uuid=str(batch[0].task_uuid), error=str(error))
        else:
            for refusal in answer.errors:
                _log.warning("result_rejected", task_uuid=str(refusal.task_uuid), reason=refusal.reason)
        self._settle(batch)

    def _settle(self, batch: list[ResultIn]) -> None:
        for result in batch:
            self._waiting.remove(result)
            self._on_settled(LeaseRef(task_uuid=result.task_uuid, lease_token=result.lease_token))
        if not self._waiting:
            self._filled.clear()
            self._emptied.set()

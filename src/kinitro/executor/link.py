"""The executor's calls to the API, with its errors sorted into three: away for now, refusing us for good, and ours."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from kinitro.client import KinitroClient
from kinitro.errors import ApiError, ApiUnreachable, ConfigurationError
from kinitro.logs import get_logger
from kinitro.schemas import (
    FetchResponse,
    HeartbeatResponse,
    LeaseRef,
    ReleaseResponse,
    ResultIn,
    SubmitResponse,
    Usage,
)

T = TypeVar("T")
_log = get_logger("executor")
_SAY_AGAIN_S = 30.0


class ApiLink:
    """One executor's way to the API. It says once a period that the API is away, and once that it is back.

    Every method raises `ApiUnreachable` when the API is away or too busy (try again), `ConfigurationError` when it
    refuses this executor (401, 403), and `ApiError` for anything else it refused. What `usage` gives, if anything, goes
    along with what is asked most often.
    """

    def __init__(
        self,
        client: KinitroClient,
        executor_id: str,
        clock: Callable[[], float] = time.monotonic,
        usage: Callable[[], Usage | None] = lambda: None,
    ) -> None:
        self._client = client
        self._usage = usage
        self._executor_id = executor_id
        self._clock = clock
        self._said_at: float | None = None
        self.refused = False
        """True once the API has refused this executor: nothing more can be told it."""

    async def fetch(self, batch_size: int, env_ids: Sequence[str]) -> FetchResponse:
        """Leases up to `batch_size` tasks."""
        return await self._call(self._client.fetch(self._executor_id, batch_size, env_ids, self._usage()))

    async def pause(self, reason: str) -> None:
        """Says that this executor takes no work now, and why."""
        await self._call(self._client.pause(self._executor_id, reason, self._usage()))

    async def heartbeat(self, leases: Sequence[LeaseRef]) -> HeartbeatResponse:
        """Extends leases."""
        return await self._call(self._client.heartbeat(self._executor_id, leases, self._usage()))

    async def release(self, leases: Sequence[LeaseRef]) -> ReleaseResponse:
        """Gives tasks back."""
        return await self._call(self._client.release(self._executor_id, leases))

    async def submit(self, results: Sequence[ResultIn]) -> SubmitResponse:
        """Reports episodes."""
        return await self._call(self._client.submit(self._executor_id, results))

    async def check(self) -> None:
        """Raises as above unless the API and its database answer."""
        health = await self._call(self._client.health())
        if health.status != "ok":
            raise ApiUnreachable("The Kinitro API answers, but its database does not.")

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            answer = await call
        except ApiUnreachable as error:
            self._say_away(error)
            raise
        except ApiError as error:
            raise self._sorted(error) from error
        if self._said_at is not None:
            self._said_at = None
            _log.info("api_reachable")
        return answer

    def _sorted(self, error: ApiError) -> ApiError | ApiUnreachable | ConfigurationError:
        if error.status_code in (401, 403):
            self.refused = True
            # A 403 says itself what to do: this executor is quarantined, or the API has no key at all.
            advice = "Set KINITRO_EXECUTOR_API_KEY to the value of the API's KINITRO_API_API_KEY."
            return ConfigurationError(
                f"The API refuses this executor. {error.message}", advice=advice if error.status_code == 401 else None
            )
        if error.status_code >= 500 or error.status_code in (408, 429):
            away = ApiUnreachable(error.message, advice=error.advice)
            self._say_away(away)
            return away
        return error

    def _say_away(self, error: ApiUnreachable) -> None:
        if self._said_at is None or self._clock() - self._said_at >= _SAY_AGAIN_S:
            self._said_at = self._clock()
            _log.warning("api_unreachable", error=str(error), note="work goes on and results are kept until it is back")

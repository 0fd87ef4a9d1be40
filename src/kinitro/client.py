"""The typed client of our own HTTP API. It never retries: the caller knows how long it can wait."""

import asyncio
from collections.abc import Callable, Sequence
from enum import StrEnum
from ipaddress import ip_address
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlsplit
from uuid import UUID

import httpx
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from kinitro.errors import ApiError, ApiUnreachable, ConfigurationError
from kinitro.logs import mask, printable
from kinitro.schemas import (
    CycleExport,
    CycleOut,
    EnvironmentOut,
    EpisodeOut,
    FetchRequest,
    FetchResponse,
    Health,
    HeartbeatResponse,
    InvalidRequest,
    LeaseRef,
    LeasesRequest,
    MinerOut,
    MinerStatus,
    Problem,
    ReleaseResponse,
    ResultIn,
    ScoresOut,
    SubmitRequest,
    SubmitResponse,
    SystemStatus,
    TaskStats,
    Usage,
    WeightsOut,
)

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_MINERS = TypeAdapter(list[MinerOut])
_ENVIRONMENTS = TypeAdapter(list[EnvironmentOut])
_CYCLES = TypeAdapter(list[CycleOut])
_EXPORT_TIMEOUT_S = 300.0
_MAX_BYTES = 64 * 2**20
_MAX_EXPORT_BYTES = 512 * 2**20
"""A cycle of 256 miners, 10 environments and 50 episodes takes a tenth of it."""


class SetBy(StrEnum):
    """What an API's address comes from, for whom: said when nothing answers there."""

    READER = "--api-url or KINITRO_API_URL"
    EXECUTOR = "--api-url or KINITRO_EXECUTOR_API_URL"
    VALIDATOR = "--backend-url or KINITRO_VALIDATOR_BACKEND_URL"


class KinitroClient:
    """Calls one API. Use it as a context manager; it keeps connections open between calls.
    Every method raises `ApiUnreachable` when no whole answer came within `timeout_s` (the request may still have
    arrived), and `ApiError` with the HTTP status when the API refused, or what answered is not a Kinitro API or says
    more than one would.
    """

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr | str | None = None,
        timeout_s: float = 30.0,
        set_by: SetBy = SetBy.READER,
    ) -> None:
        self._url = _checked_url(base_url)
        self._set_by = set_by
        self._timeout_s = timeout_s
        key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
        self._http = httpx.AsyncClient(
            base_url=self._url,
            headers={b"Authorization": f"Bearer {key}".encode()} if key else None,
            timeout=timeout_s,
            # A proxy between two programs of one machine would make the API refuse its own neighbour.
            trust_env=not _is_this_machine(self._url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. Safe to call twice."""
        await self._http.aclose()

    async def fetch(
        self,
        executor_id: str,
        batch_size: int,
        env_ids: Sequence[str] | None = None,
        usage: Usage | None = None,
    ) -> FetchResponse:
        """Leases up to `batch_size` (1 to 100) tasks in these environments, or in any. `usage` is for the metrics."""
        request = FetchRequest(
            executor_id=executor_id,
            batch_size=batch_size,
            env_ids=None if env_ids is None else list(env_ids),
            usage=usage,
        )
        return await self._post("/v1/tasks/fetch", request, FetchResponse)

    async def pause(self, executor_id: str, reason: str, usage: Usage | None = None) -> None:
        """Says that this executor takes no work now, and why (at most 500 characters)."""
        request = FetchRequest(executor_id=executor_id, batch_size=1, paused=reason, usage=usage)
        await self._post("/v1/tasks/fetch", request, FetchResponse)

    async def heartbeat(
        self, executor_id: str, leases: Sequence[LeaseRef], usage: Usage | None = None
    ) -> HeartbeatResponse:
        """Extends up to 1000 leases and marks those with `started` as running. `usage` is for the metrics."""
        request = LeasesRequest(executor_id=executor_id, leases=list(leases), usage=usage)
        return await self._post("/v1/tasks/heartbeat", request, HeartbeatResponse)

    async def release(self, executor_id: str, leases: Sequence[LeaseRef]) -> ReleaseResponse:
        """Gives up to 1000 tasks back."""
        request = LeasesRequest(executor_id=executor_id, leases=list(leases))
        return await self._post("/v1/tasks/release", request, ReleaseResponse)

    async def submit(self, executor_id: str, results: Sequence[ResultIn]) -> SubmitResponse:
        """Reports up to 100 episodes. After `ApiUnreachable` send the same again: it counts once."""
        request = SubmitRequest(executor_id=executor_id, results=list(results))
        return await self._post("/v1/tasks/submit", request, SubmitResponse)

    async def stats(self, cycle_id: int | None = None) -> TaskStats:
        """Task counts of one cycle; by default of the open one, else the latest."""
        query = "" if cycle_id is None else f"?cycle_id={cycle_id}"
        return await self._get(f"/v1/tasks/stats{query}", TaskStats)

    async def health(self) -> Health:
        """Whether the API and its database answer. An unhealthy API is an answer, not an error."""
        response = await self._send("GET", "/health")
        if response.status_code not in {200, 503}:
            raise self._refused(response)
        return self._parse(response, Health.model_validate_json)

    async def status(self) -> SystemStatus:
        """What runs now, what ended last, and what the system waits for."""
        return await self._get("/v1/status", SystemStatus)

    async def miners(self) -> list[MinerOut]:
        """Every miner with a commitment, with its state."""
        return self._parse(await self._ok("GET", "/v1/miners"), _MINERS.validate_json)

    async def miner(self, hotkey: str) -> MinerStatus:
        """One miner's state, reason, queue and last result. 404, with the reason, when the API does not know it."""
        return await self._get(f"/v1/miners/{quote(hotkey, safe='')}", MinerStatus)

    async def environments(self) -> list[EnvironmentOut]:
        """The environments of the latest cycle."""
        return self._parse(await self._ok("GET", "/v1/environments"), _ENVIRONMENTS.validate_json)

    async def cycles(self, limit: int = 20) -> list[CycleOut]:
        """The latest cycles, newest first."""
        return self._parse(await self._ok("GET", f"/v1/cycles?limit={limit}"), _CYCLES.validate_json)

    async def scores(self, cycle_id: int | None = None) -> ScoresOut:
        """Scores of one cycle; by default of the last completed one. 404 when there are none."""
        return await self._get(f"/v1/scores/{'latest' if cycle_id is None else cycle_id}", ScoresOut)

    async def weights(self, block: int | None = None) -> WeightsOut:
        """Weights in force at a block; by default the latest. 404 when there are none."""
        return await self._get(f"/v1/weights/{'latest' if block is None else block}", WeightsOut)

    async def export(self, cycle_id: int) -> CycleExport:
        """A closed cycle as `kinitro score` reads it. 409 while it runs."""
        return (await self.export_file(cycle_id))[0]

    async def export_file(self, cycle_id: int) -> tuple[CycleExport, bytes]:
        """The same, with the bytes it was read from."""
        path = f"/v1/cycles/{cycle_id}/export"
        response = await self._ok("GET", path, timeout_s=_EXPORT_TIMEOUT_S, max_bytes=_MAX_EXPORT_BYTES)
        return self._parse(response, CycleExport.model_validate_json), response.content

    async def episode(self, task_uuid: UUID) -> EpisodeOut:
        """One episode of a closed cycle with all that a replay needs. 404 when there is none, 409 while it runs."""
        return await self._get(f"/v1/episodes/{task_uuid}", EpisodeOut)

    async def _get(self, path: str, model: type[M]) -> M:
        return self._parse(await self._ok("GET", path), model.model_validate_json)

    async def _post(self, path: str, request: BaseModel, model: type[M]) -> M:
        return self._parse(await self._ok("POST", path, request), model.model_validate_json)

    async def _ok(
        self,
        method: str,
        path: str,
        request: BaseModel | None = None,
        *,
        timeout_s: float | None = None,
        max_bytes: int = _MAX_BYTES,
    ) -> httpx.Response:
        response = await self._send(method, path, request, timeout_s=timeout_s, max_bytes=max_bytes)
        if response.status_code != 200:
            raise self._refused(response)
        return response

    async def _send(
        self,
        method: str,
        path: str,
        request: BaseModel | None = None,
        *,
        timeout_s: float | None = None,
        max_bytes: int = _MAX_BYTES,
    ) -> httpx.Response:
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        content = None if request is None else request.model_dump_json(exclude_none=True)
        headers = None if request is None else {"Content-Type": "application/json"}
        try:
            # httpx limits each read; a server that sends a byte now and then must not hold the caller for ever.
            async with (
                asyncio.timeout(wait_s),
                self._http.stream(method, path, content=content, headers=headers, timeout=wait_s) as response,
            ):
                body = await self._body(response, max_bytes)
        except (httpx.TimeoutException, TimeoutError):
            raise self._unreachable("it did not answer in time") from None
        except httpx.RequestError as error:
            raise self._unreachable(str(error) or type(error).__name__) from error
        return httpx.Response(response.status_code, content=body, request=response.request)

    async def _body(self, response: httpx.Response, max_bytes: int) -> bytes:
        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > max_bytes:
                raise ApiError(
                    f"What answered at {response.request.url} sent more than {max_bytes // 2**20} MiB.",
                    status_code=response.status_code,
                    advice="No Kinitro API says that much: check the address.",
                )
        return bytes(body)

    def _unreachable(self, cause: str) -> ApiUnreachable:
        return ApiUnreachable(
            f"The Kinitro API at {self._url} can't be reached: {cause}.",
            advice=f"Check that `kinitro api` runs there, and the address ({self._set_by.value}).",
        )

    def _refused(self, response: httpx.Response) -> ApiError:
        what = f"{response.request.method} {response.request.url.path}"
        detail = _detail(response.content)
        if detail is None:
            return self._not_ours(response)
        advice = None
        if response.status_code == 404 and self._url.endswith("/v1"):
            advice = f"Give the address without /v1: {self._url.removesuffix('/v1')}"
        return ApiError(
            f"The Kinitro API at {self._url} answered {response.status_code} to {what}: {detail}",
            status_code=response.status_code,
            advice=advice,
        )

    def _not_ours(self, response: httpx.Response) -> ApiError:
        return ApiError(
            f"What answered {response.status_code} at {response.request.url} is not a Kinitro API of this version.",
            status_code=response.status_code,
            advice=f"Compare the version in {self._url}/health with `kinitro --version`.",
        )

    def _parse(self, response: httpx.Response, parse: Callable[[bytes], T]) -> T:
        try:
            return parse(response.content)
        except ValidationError:
            raise self._not_ours(response) from None


def _detail(body: bytes) -> str | None:
    """The sentence in an error's body, or None when it is not one of ours."""
    try:
        return printable(Problem.model_validate_json(body).detail)
    except ValidationError:
        pass
    try:
        problems = InvalidRequest.model_validate_json(body).detail
    except ValidationError:
        return None
    return printable("; ".join(f"{'.'.join(str(part) for part in item.loc)}: {item.msg}" for item in problems)) + "."


def _checked_url(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            f"{mask(base_url)!r} is not the address of a Kinitro API.", advice="Write it as http://localhost:8000."
        )
    return base_url.rstrip("/")


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

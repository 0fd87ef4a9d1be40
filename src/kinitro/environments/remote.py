"""The executor's side of environment servers. Whatever goes wrong with one is infrastructure, no policy's fault."""

import asyncio
import json
import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from kinitro.environments.protocol import (
    SECRET_VARIABLE,
    EnvironmentList,
    EvaluateReply,
    EvaluateRequest,
    ServerHealth,
)
from kinitro.errors import EnvironmentFault

Answer = TypeVar("Answer", bound=BaseModel)

MAX_REPLY_BYTES = 1024 * 1024
SHORT_DEADLINE_S = 5.0


class EnvironmentServer(Protocol):
    """Runs one episode at a time. Every failure is an `EnvironmentFault`."""

    async def health(self) -> ServerHealth:
        """Whether it is up, and busy."""
        ...

    async def evaluate(self, request: EvaluateRequest, deadline_s: float) -> EvaluateReply:
        """Runs one episode there. `deadline_s` must exceed its `longest_s` by the time a simulator takes to build."""
        ...

    async def close(self) -> None:
        """No more episodes."""
        ...


class CalledAnew(Protocol):
    """What starts an environment server anew for each call, with these variables, and ends it after."""

    async def call(
        self, method: str, body: Mapping[str, object], environment: Mapping[str, str], deadline_s: float
    ) -> object:
        """Its answer. Raises `EnvironmentFault`."""
        ...


class EnvironmentServerPerEpisode:
    """A server of its own for each episode, each with a secret of its own."""

    def __init__(self, running: CalledAnew) -> None:
        self._running = running
        self._busy = False
        self._episodes = 0

    async def health(self) -> ServerHealth:
        """It is up: there is nothing between episodes."""
        return ServerHealth(status="ok", busy=self._busy, episodes=self._episodes)

    async def evaluate(self, request: EvaluateRequest, deadline_s: float) -> EvaluateReply:
        """As every server; the start of the server comes on top of `deadline_s`."""
        secret = secrets.token_urlsafe(32)
        # What it runs under has other uses for `task_id`.
        shown = request.model_copy(update={"policy_task_id": request.task_id})
        body = shown.document(secret)
        self._busy = True
        try:
            answer = await self._running.call("evaluate", body, {SECRET_VARIABLE: secret}, deadline_s)
        finally:
            self._busy = False
            self._episodes += 1
        try:
            return EvaluateReply.model_validate(answer)
        except ValidationError as error:
            raise EnvironmentFault(
                "The environment server gave an answer that does not fit the protocol.", code="environment_reply"
            ) from error

    async def close(self) -> None:
        """Nothing is open."""


class RemoteEnvironmentServer:
    """One environment server at `base_url`; its secret goes with every episode.

    Every failure is an `EnvironmentFault` whose `code` is `environment_unreachable`, `environment_timeout`,
    `environment_refused` or `environment_reply`.
    """

    def __init__(self, base_url: str, secret: str) -> None:
        self.base_url = base_url.rstrip("/")
        self._secret = secret
        # Each call has one total deadline of its own, so httpx's limits on parts of a call are off.
        self._http = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(None), follow_redirects=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. An episode still running there is cancelled by that."""
        await self._http.aclose()

    async def health(self, deadline_s: float = SHORT_DEADLINE_S) -> ServerHealth:
        """Whether the server is up, and busy."""
        return await self._call("GET", "/health", b"", deadline_s, ServerHealth)

    async def environments(self, deadline_s: float = SHORT_DEADLINE_S) -> EnvironmentList:
        """What the server offers."""
        return await self._call("POST", "/list_environments", b"{}", deadline_s, EnvironmentList)

    async def evaluate(self, request: EvaluateRequest, deadline_s: float) -> EvaluateReply:
        """Runs one episode there. `deadline_s` must exceed its `longest_s` by the time a simulator takes to build."""
        body = json.dumps(request.document(self._secret)).encode()
        return await self._call("POST", "/evaluate", body, deadline_s, EvaluateReply)

    async def _call(self, method: str, path: str, body: bytes, deadline_s: float, answer: type[Answer]) -> Answer:
        try:
            async with asyncio.timeout(deadline_s):
                status, content = await self._exchange(method, path, body)
        except TimeoutError as error:
            raise self._fault(path, f"did not answer within {deadline_s:g} s", "environment_timeout") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise self._fault(path, f"can't be reached: {reason}", "environment_unreachable") from error
        if status != 200:
            raise self._fault(
                path, f"answers HTTP status {status}: {content[:500].decode(errors='replace')}", "environment_refused"
            )
        try:
            return answer.model_validate_json(content)
        except ValidationError as error:
            raise self._fault(path, "gave an answer that does not fit the protocol", "environment_reply") from error

    async def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        async with self._http.stream(method, self.base_url + path, content=body, headers=headers) as response:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_REPLY_BYTES:
                    raise self._fault(path, f"answers with more than {MAX_REPLY_BYTES} bytes", "environment_reply")
            return response.status_code, bytes(content)

    def _fault(self, path: str, problem: str, code: str) -> EnvironmentFault:
        return EnvironmentFault(f"The environment server at {self.base_url} {problem} ({path}).", code=code)

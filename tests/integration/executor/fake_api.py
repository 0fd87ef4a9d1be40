"""The task routes of the API, in memory: what an executor needs of it, and ways to misbehave."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kinitro.schemas import (
    FetchRequest,
    FetchResponse,
    HeartbeatResponse,
    LeasesRequest,
    Refusal,
    ReleaseResponse,
    ResultIn,
    SubmitRequest,
    SubmitResponse,
    TaskOut,
    Usage,
)
from kinitro.types import ErrorKind, PolicyRef, TaskStatus


class FakeApi:
    def __init__(self, port: int = 0) -> None:
        self.lease_s = 3.0
        self.clock_ahead_s = 0.0
        self.refuse_with: int | None = None
        self.reject: dict[UUID, str] = {}
        self.lose: set[UUID] = set()
        self.pending: list[TaskOut] = []
        self.leased: dict[UUID, TaskOut] = {}
        self.started: set[UUID] = set()
        self.results: dict[UUID, ResultIn] = {}
        self.submissions = 0
        self.fetches = 0
        self.paused: list[str] = []
        self.heartbeats = 0
        self.usages: list[Usage | None] = []
        self.released: list[UUID] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self._port = self._listener.getsockname()[1]
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def add(self, ref: PolicyRef, count: int = 1, *, uid: int = 1, env_id: str = "line/reach-v0", **more) -> list[UUID]:
        tasks = [
            TaskOut(
                task_uuid=uuid4(), lease_token=uuid4(), lease_expires_at=datetime.now(UTC), cycle_id=1, miner_uid=uid,
                miner_hotkey="5Hotkey", miner_repo=ref.repo, miner_revision=ref.revision, env_id=env_id, seed=number,
                policy_seed=number, status=TaskStatus.PENDING, created_at=datetime.now(UTC), **more,
            )
            for number in range(count)
        ]  # fmt: skip
        self.pending += tasks
        return [task.task_uuid for task in tasks]

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/tasks/fetch", self._fetch, methods=["POST"]),
                Route("/v1/tasks/heartbeat", self._heartbeat, methods=["POST"]),
                Route("/v1/tasks/release", self._release, methods=["POST"]),
                Route("/v1/tasks/submit", self._submit, methods=["POST"]),
            ]
        )

    async def come(self) -> None:
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self._port))
        config = uvicorn.Config(self.app(), log_level="error", ws="none", timeout_graceful_shutdown=0)
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve([self._listener]))
        while not self._server.started:  # noqa: ASYNC110 - uvicorn offers no event
            await asyncio.sleep(0.005)

    async def go(self) -> None:
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
        self._server = self._serving = None
        self._listener.close()

    def _refusal(self) -> Response | None:
        return None if self.refuse_with is None else JSONResponse({"detail": "no"}, self.refuse_with)

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": "0", "database": "connected"})

    async def _fetch(self, request: Request) -> Response:
        asked = FetchRequest.model_validate_json(await request.body())
        if (refusal := self._refusal()) is not None:
            return refusal
        if asked.paused is not None:
            self.paused.append(asked.paused)
            return _json(FetchResponse(tasks=[], total_pending=0))
        self.fetches += 1
        self.usages.append(asked.usage)
        expiry = datetime.now(UTC) + timedelta(seconds=self.lease_s + self.clock_ahead_s)
        served = [task for task in self.pending if asked.env_ids is None or task.env_id in asked.env_ids]
        chosen = [
            task.model_copy(update={"lease_expires_at": expiry, "lease_token": uuid4()})
            for task in served[: asked.batch_size]
        ]
        taken = {task.task_uuid for task in chosen}
        self.pending = [task for task in self.pending if task.task_uuid not in taken]
        self.leased |= {task.task_uuid: task for task in chosen}
        return _json(FetchResponse(tasks=chosen, total_pending=len(self.pending)))

    async def _heartbeat(self, request: Request) -> Response:
        asked = LeasesRequest.model_validate_json(await request.body())
        if (refusal := self._refusal()) is not None:
            return refusal
        self.heartbeats += 1
        self.usages.append(asked.usage)
        mine = [lease for lease in asked.leases if lease.task_uuid in self.leased and lease.task_uuid not in self.lose]
        self.started |= {lease.task_uuid for lease in mine if lease.started}
        kept = {lease.task_uuid for lease in mine}
        lost = [lease.task_uuid for lease in asked.leases if lease.task_uuid not in kept]
        return _json(HeartbeatResponse(extended=list(kept), lost=lost))

    async def _release(self, request: Request) -> Response:
        asked = LeasesRequest.model_validate_json(await request.body())
        if (refusal := self._refusal()) is not None:
            return refusal
        for lease in asked.leases:
            if (task := self.leased.pop(lease.task_uuid, None)) is not None:
                self.pending.append(task)
                self.released.append(lease.task_uuid)
        return _json(ReleaseResponse(released=[lease.task_uuid for lease in asked.leases], lost=[]))

    async def _submit(self, request: Request) -> Response:
        asked = SubmitRequest.model_validate_json(await request.body())
        if (refusal := self._refusal()) is not None:
            return refusal
        self.submissions += 1
        errors = [
            Refusal(task_uuid=result.task_uuid, reason=self.reject[result.task_uuid])
            for result in asked.results
            if result.task_uuid in self.reject
        ]
        for result in asked.results:
            task = self.leased.pop(result.task_uuid, None)
            if result.error_kind is ErrorKind.INFRASTRUCTURE and task is not None:
                self.pending.append(task)
            self.results[result.task_uuid] = result
        return _json(SubmitResponse(accepted=len(asked.results) - len(errors), rejected=len(errors), errors=errors))


def _json(message) -> Response:
    return Response(message.model_dump_json(), media_type="application/json")

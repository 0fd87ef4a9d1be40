"""The executors' routes: lease, renew, give back, report."""

from fastapi import APIRouter, Security
from fastapi.security import HTTPBearer

from kinitro.api.metrics import Metrics
from kinitro.api.problems import GUARDED, INVALID, UNAVAILABLE
from kinitro.schemas import (
    FetchRequest,
    FetchResponse,
    HeartbeatResponse,
    LeasesRequest,
    ReleaseResponse,
    SubmitRequest,
    SubmitResponse,
)
from kinitro.storage.task_pool import TaskPool


def tasks_router(pool: TaskPool, metrics: Metrics) -> APIRouter:
    """Routes over one task pool; what executors say of their deployments goes into the metrics.

    The gate in front decides who may post; the bearer scheme here documents it.
    """
    router = APIRouter(
        prefix="/v1/tasks",
        tags=["tasks"],
        responses=INVALID | UNAVAILABLE | GUARDED,
        dependencies=[Security(HTTPBearer(auto_error=False))],
    )

    @router.post("/fetch")
    async def fetch(request: FetchRequest) -> FetchResponse:
        """Leases up to `batch_size` tasks to this executor. None free is an empty list, not an error.

        One that says why it is `paused` gets none, and its reason is shown in /v1/status.
        """
        metrics.note_usage(request.executor_id, request.usage)
        if request.paused is not None:
            await pool.pause(request.executor_id, request.paused)
            return FetchResponse(tasks=[], total_pending=0)
        return await pool.fetch(request.executor_id, request.batch_size, request.env_ids)

    @router.post("/heartbeat")
    async def heartbeat(request: LeasesRequest) -> HeartbeatResponse:
        """Extends leases and marks the started ones. Stop working on those that are `lost`."""
        metrics.note_usage(request.executor_id, request.usage)
        return await pool.heartbeat(request.executor_id, request.leases)

    @router.post("/release")
    async def release(request: LeasesRequest) -> ReleaseResponse:
        """Gives tasks back. One that was not started counts no attempt."""
        return await pool.release(request.executor_id, request.leases)

    @router.post("/submit")
    async def submit(request: SubmitRequest) -> SubmitResponse:
        """Reports episodes. Sending the same report again is safe: it is accepted again and counted once."""
        return await pool.submit(request.executor_id, request.results)

    return router

"""The API about itself: health and metrics."""

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from kinitro import __version__
from kinitro.api.metrics import Metrics, Scrape
from kinitro.errors import DatabaseError
from kinitro.schemas import Health
from kinitro.storage import reads
from kinitro.storage.database import Database
from kinitro.storage.quarantine import quarantines
from kinitro.storage.task_pool import TaskPool


def system_router(database: Database, pool: TaskPool, metrics: Metrics) -> APIRouter:
    """`/health` and `/metrics`; both answer while the database does not."""
    router = APIRouter(tags=["system"])

    @router.get("/health", responses={503: {"model": Health, "description": "The database does not answer."}})
    async def health(response: Response) -> Health:
        """Whether this API and its database answer."""
        try:
            await database.ping()
        except DatabaseError:
            response.status_code = 503
            return Health(status="unhealthy", version=__version__, database="unreachable")
        return Health(status="ok", version=__version__, database="connected")

    @router.get("/metrics", response_class=PlainTextResponse)
    async def expose() -> Response:
        """Prometheus text."""
        return Response(metrics.expose(await _scrape(database, pool)), media_type=CONTENT_TYPE_LATEST)

    return router


async def _scrape(database: Database, pool: TaskPool) -> Scrape | None:
    try:
        stats = await pool.stats()
        async with database.connect() as connection:
            audits = await reads.audit_counts(connection)
            scopes = [entry.hotkey is None for entry in await quarantines(connection)]
    except DatabaseError:
        return None
    return Scrape(stats, audits, quarantined=scopes.count(True), kept_from=scopes.count(False))

"""The HTTP API as an ASGI app, made of the parts it is given."""

from fastapi import FastAPI

from kinitro import __version__
from kinitro.api.access import AccessRule
from kinitro.api.gate import Gate
from kinitro.api.metrics import Metrics
from kinitro.api.problems import install
from kinitro.api.public import public_router
from kinitro.api.system import system_router
from kinitro.api.tasks import tasks_router
from kinitro.settings import ApiSettings
from kinitro.storage.database import Database
from kinitro.storage.task_pool import TaskPool


def build_app(database: Database, settings: ApiSettings) -> FastAPI:
    """The API over one database. It opens and closes nothing itself."""
    metrics = Metrics()
    pool = TaskPool(database, lease_s=settings.task_lease_seconds, max_lease_s=settings.max_lease_seconds)
    app = FastAPI(
        title="Kinitro",
        version=__version__,
        description="Tasks for executors; status, scores, weights and whole cycles for everyone.",
        # The pages load scripts from elsewhere; /openapi.json is what tools need.
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(system_router(database, pool, metrics))
    app.include_router(tasks_router(pool, metrics))
    app.include_router(public_router(database, pool))
    install(app)
    app.add_middleware(Gate, rule=AccessRule(settings.api_key, settings.no_auth), metrics=metrics)
    return app

"""What everyone may read: status, miners, environments, scores, weights and closed cycles."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response

from kinitro.api.exports import ExportFiles
from kinitro.api.problems import INVALID, NOT_FOUND, STILL_OPEN, UNAVAILABLE, not_found, still_open
from kinitro.schemas import (
    CycleExport,
    CycleOut,
    EnvironmentOut,
    EpisodeOut,
    MinerOut,
    MinerStatus,
    Name,
    ScoresOut,
    SystemStatus,
    TaskStats,
    WeightsOut,
)
from kinitro.storage import miners as standing
from kinitro.storage import reads
from kinitro.storage.database import Database
from kinitro.storage.export import load_episode
from kinitro.storage.task_pool import TaskPool
from kinitro.types import CycleStatus

CycleId = Annotated[int, Path(ge=1, le=2**31 - 1)]
Block = Annotated[int, Path(ge=0, le=2**63 - 1)]
CycleFilter = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Default: the open cycle, else the latest.")]
Limit = Annotated[int, Query(ge=1, le=1000)]

_OPEN = (CycleStatus.PENDING, CycleStatus.RUNNING)


def public_router(database: Database, pool: TaskPool) -> APIRouter:
    """Every read-only route but those on the API itself."""
    router = APIRouter(prefix="/v1", responses=UNAVAILABLE)
    _add_overview(router, database)
    _add_stats(router, pool)
    _add_scores(router, database)
    _add_weights(router, database)
    _add_cycles(router, database)
    _add_episodes(router, database)
    return router


def _add_overview(router: APIRouter, database: Database) -> None:
    @router.get("/status", tags=["overview"])
    async def status() -> SystemStatus:
        """What runs now, what ended last, and what the system waits for."""
        async with database.connect() as connection:
            return await reads.load_status(connection)

    @router.get("/miners", tags=["overview"])
    async def miners() -> list[MinerOut]:
        """Every miner with a commitment, with its state, the reason for it, and its latest success rate."""
        async with database.connect() as connection:
            return await reads.list_miners(connection)

    @router.get("/miners/{hotkey}", tags=["overview"], responses=NOT_FOUND | INVALID)
    async def miner(hotkey: Name) -> MinerStatus:
        """One miner by its hotkey: its state and why, its place in the queue, what it waits for, its last result."""
        async with database.connect() as connection:
            found = await standing.load_miner_status(connection, hotkey)
            why_not = await standing.why_unknown(connection, hotkey) if found is None else ""
        if found is None:
            raise not_found(why_not)
        return found

    @router.get("/environments", tags=["overview"])
    async def environments() -> list[EnvironmentOut]:
        """The environments of the latest cycle, with the average success in the last completed one."""
        async with database.connect() as connection:
            return await reads.list_environments(connection)


def _add_stats(router: APIRouter, pool: TaskPool) -> None:
    @router.get("/tasks/stats", tags=["overview"], responses=INVALID)
    async def stats(cycle_id: CycleFilter = None) -> TaskStats:
        """Counts of tasks by status, and the executors seen lately."""
        return await pool.stats(cycle_id)


def _add_scores(router: APIRouter, database: Database) -> None:
    @router.get("/scores/latest", tags=["scores"], responses=NOT_FOUND)
    async def latest_scores() -> ScoresOut:
        """The scores of the last completed cycle."""
        async with database.connect() as connection:
            found = await reads.load_scores(connection)
        if found is None:
            raise not_found("No cycle has completed yet. See /v1/status for what runs.")
        return found

    @router.get("/scores/{cycle_id}", tags=["scores"], responses=NOT_FOUND | STILL_OPEN | INVALID)
    async def scores(cycle_id: CycleId) -> ScoresOut:
        """The scores of one completed cycle."""
        cycle = await _closed_cycle(database, cycle_id, "scores")
        async with database.connect() as connection:
            found = await reads.load_scores(connection, cycle_id)
        if found is None:
            raise not_found(f"Cycle {cycle_id} has no scores: {cycle.failure_reason or cycle.status}.")
        return found


def _add_weights(router: APIRouter, database: Database) -> None:
    @router.get("/weights/latest", tags=["weights"], responses=NOT_FOUND)
    async def latest_weights() -> WeightsOut:
        """The weights published last."""
        async with database.connect() as connection:
            found = await reads.load_weights(connection)
        if found is None:
            raise not_found("No weights have been published yet. See /v1/status for the reason.")
        return found

    @router.get("/weights/{block}", tags=["weights"], responses=NOT_FOUND | INVALID)
    async def weights(block: Block) -> WeightsOut:
        """The weights in force at a block: the latest whose `block_number` is not beyond it."""
        async with database.connect() as connection:
            found = await reads.load_weights(connection, block)
        if found is None:
            raise not_found(f"No weights had been published by block {block}. See /v1/weights/latest.")
        return found


def _add_cycles(router: APIRouter, database: Database) -> None:
    files = ExportFiles(database)

    @router.get("/cycles", tags=["cycles"], responses=INVALID)
    async def cycles(limit: Limit = 20) -> list[CycleOut]:
        """The latest cycles, newest first."""
        async with database.connect() as connection:
            return await reads.list_cycles(connection, limit)

    @router.get(
        "/cycles/{cycle_id}/export",
        tags=["cycles"],
        response_model=CycleExport,
        responses=NOT_FOUND | STILL_OPEN | INVALID,
    )
    async def export(cycle_id: CycleId) -> Response:
        """A closed cycle as `kinitro score` reads it, salt and seeds included."""
        await _closed_cycle(database, cycle_id, "export")
        return Response(await files.get(cycle_id), media_type="application/json")


def _add_episodes(router: APIRouter, database: Database) -> None:
    @router.get("/episodes/{task_uuid}", tags=["cycles"], responses=NOT_FOUND | STILL_OPEN | INVALID)
    async def episode(task_uuid: UUID) -> EpisodeOut:
        """One episode of a closed cycle with its record, as `kinitro replay` reads it."""
        async with database.connect() as connection:
            found = await load_episode(connection, task_uuid)
        if found is None:
            raise not_found(f"There is no task {task_uuid}. The export of a cycle lists its tasks.")
        await _closed_cycle(database, found.cycle_id, "episodes")
        return found


async def _closed_cycle(database: Database, cycle_id: int, what: str) -> CycleOut:
    async with database.connect() as connection:
        cycle = await reads.load_cycle(connection, cycle_id)
    if cycle is None:
        raise not_found(f"There is no cycle {cycle_id}. See /v1/cycles.")
    if cycle.status in _OPEN:
        raise still_open(cycle_id, what)
    return cycle

"""What runs have left at the service, and its removal: a forgotten deployment costs money until its time is over."""

import asyncio
from pathlib import Path

from kinitro.backends.basilica.service import Basilica
from kinitro.backends.basilica.settings import is_of_run
from kinitro.backends.runs import forget_run, if_dead, noted_runs
from kinitro.errors import InfrastructureError
from kinitro.logs import get_logger

_log = get_logger("basilica")
_ROUNDS = 3


async def end_run(service: Basilica, runs: Path, run: str) -> int:
    """Deletes everything of a run, and forgets it once nothing is left. Says how much there was.

    More than once: a deployment that was being made when we began to look appears after it. What can't be deleted is
    logged and looked for again at the next start.
    """
    found: set[str] = set()
    left: set[str] = set()
    for _ in range(_ROUNDS):
        left = {name for name in await service.names() if is_of_run(name, run)}
        if not left:
            forget_run(runs, run)
            return len(found)
        await asyncio.gather(*(delete(service, name) for name in left))
        found |= left
    _log.error("deployments_left", run=run, names=sorted(left), note="they cost money until they end by their time")
    return len(found)


async def delete(service: Basilica, name: str) -> bool:
    """Deletes one; false, with a line in the log, when it could not be."""
    try:
        await service.delete(name)
    except InfrastructureError as error:
        _log.warning("deployment_not_deleted", name=name, code=error.code, error=error.message)
        return False
    return True


async def sweep(service: Basilica, runs: Path) -> int:
    """Deletes what is left of dead runs that were started from this folder; says how many deployments there were."""
    deleted = 0
    for run in noted_runs(runs):
        with if_dead(runs, run) as dead:
            deleted += await end_run(service, runs, run) if dead else 0
    return deleted

"""The scheduler as a service: one leads, others stand by, and trouble with chain or database only delays a cycle."""

import asyncio
import importlib.util
import os
import time
from collections.abc import Callable

from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.chain import Chain, open_chain, shown_network
from kinitro.environments import EnvironmentSpec, select
from kinitro.errors import ChainError, ConfigurationError, DatabaseUnreachable, how_to_install
from kinitro.logs import get_logger
from kinitro.scheduler.lifecycle import Lifecycle, RejectionLog
from kinitro.scheduler.ownership import PolicyInspector
from kinitro.settings import SchedulerSettings
from kinitro.storage import Database, open_database, presence, set_notice, try_leadership

log = get_logger("scheduler")

STANDBY_POLL_S = 5.0
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)


async def serve(settings: SchedulerSettings) -> None:
    """Runs until cancelled. Wrong settings, a wrong database or an unknown network end it with a clear error."""
    environments = select(settings.env_families, settings.environments)
    inspector = _inspector(settings)
    async with open_database(settings.database_url) as database, open_chain(settings.network) as chain:
        log.info(
            "scheduler_started",
            network=shown_network(settings.network),
            netuid=settings.netuid,
            environments=[spec.env_id for spec in environments],
            episodes_per_env=settings.episodes_per_env,
        )
        await _keep_leading(database, chain, settings, environments, inspector)


def _inspector(settings: SchedulerSettings) -> PolicyInspector | None:
    if settings.network == "dev":
        return None
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ConfigurationError(
            "On a real network the scheduler asks the hub whose policy a repo is; huggingface_hub is not installed.",
            advice=how_to_install("hub"),
        )
    from kinitro.deployments.hub import HuggingFaceHub  # noqa: PLC0415 - optional, and slow to import

    return HuggingFaceHub(settings.hf_token or SecretStr(os.environ.get("HF_TOKEN", "")))


async def _keep_leading(
    database: Database,
    chain: Chain,
    settings: SchedulerSettings,
    environments: tuple[EnvironmentSpec, ...],
    inspector: PolicyInspector | None,
) -> None:
    rejections, pauses = RejectionLog(), _Pauses()

    def lifecycle(connection: AsyncConnection) -> Lifecycle:
        return Lifecycle(connection, chain, settings, environments, inspector=inspector, rejections=rejections)

    while True:
        pauses.begin()
        try:
            async with presence(database):
                try:
                    await _lead(database, lifecycle)
                except ChainError as error:
                    log.warning("chain_trouble", reason=str(error))
                    await _say(database, str(error))
                    await pauses.rest()
        except (DatabaseUnreachable, DBAPIError, OSError) as error:
            log.warning("database_trouble", reason=str(error).splitlines()[0])
            await pauses.rest()


async def _lead(database: Database, lifecycle: Callable[[AsyncConnection], Lifecycle]) -> None:
    """Waits until it may lead, then does so until something fails."""
    standing_by = False
    while True:
        async with try_leadership(database) as connection:
            if connection is not None:
                await lifecycle(connection).run()
                return
        if not standing_by:
            async with database.connect() as connection:
                await lifecycle(connection).check()
            log.info("scheduler_standing_by", reason="another scheduler holds this database's lock")
        standing_by = True
        await asyncio.sleep(STANDBY_POLL_S)


class _Pauses:
    """What fails at once again and again is tried less and less often; after a good stretch we begin anew."""

    def __init__(self) -> None:
        self._failures = 0
        self._begun = 0.0

    def begin(self) -> None:
        """A new try."""
        self._begun = time.monotonic()

    async def rest(self) -> None:
        """Waits after a try that failed."""
        self._failures = 0 if time.monotonic() - self._begun > RETRY_S[-1] else self._failures + 1
        await asyncio.sleep(RETRY_S[min(self._failures, len(RETRY_S) - 1)])


async def _say(database: Database, text: str) -> None:
    """Best effort: the database may be the next thing to fail, and the log has it already."""
    try:
        async with database.begin() as connection:
            await set_notice(connection, "chain", text)
    except (DatabaseUnreachable, DBAPIError, OSError) as error:
        log.warning("database_trouble", reason=str(error).splitlines()[0])

"""The validator as a service and as one command: what ends it, and what it waits out."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from kinitro.chain import Chain, Signer, open_chain, shown_network
from kinitro.client import KinitroClient, SetBy
from kinitro.errors import (
    AmbiguousWrite,
    ApiError,
    ApiUnreachable,
    ChainError,
    ChainRejected,
    ChainUnreachable,
    KinitroError,
    NotRegistered,
    RateLimited,
)
from kinitro.logs import get_logger
from kinitro.settings import ValidatorSettings, home_directory
from kinitro.validator.journal import open_journal
from kinitro.validator.validator import Standing, Validator
from kinitro.validator.verify import NoWeightsYet, WeightsRefused

log = get_logger("validator")

RETRY_S = (2.0, 5.0, 15.0, 30.0, 60.0)
TURN_S = 900.0
"""A turn that takes longer hangs: an export may take 300 s, a write and its confirmation as long."""
ONCE_S = 600.0
_SAY_AGAIN_S = 1800.0
_NUMBER = re.compile(r"\d+")
_EVENTS: Mapping[type[KinitroError], str] = {
    ApiError: "backend_trouble",
    ApiUnreachable: "backend_trouble",
    NoWeightsYet: "no_weights_yet",
    RateLimited: "rate_limited",
    WeightsRefused: "weights_refused",
}


async def serve(settings: ValidatorSettings, signer: Signer) -> None:
    """Runs until cancelled. Trouble is waited out; what needs a person ends it.

    Raises `ConfigurationError` (another netuid or chain, another validator with this hotkey), `NotRegistered` and
    `ChainRejected` (no permit, for one).
    """
    async with _build(settings, signer) as validator:
        log.info(
            "validator_started",
            network=shown_network(settings.network),
            netuid=settings.netuid,
            hotkey=signer.ss58_address,
            backend_url=settings.backend_url,
            recompute=settings.recompute,
        )
        await _Keeper(settings, validator).run()


async def set_once(settings: ValidatorSettings, signer: Signer) -> Standing:
    """One turn, for cron: the weights are on chain, confirmed, when it returns. Raises whatever stands in the way.

    A write of unknown fate is looked up for up to `ONCE_S`; nothing else is tried again.
    """
    async with _build(settings, signer) as validator:
        give_up = time.monotonic() + ONCE_S
        async with open_chain(settings.network) as chain:
            while True:
                try:
                    async with _deadline():
                        return await validator.turn(chain)
                except AmbiguousWrite:
                    if time.monotonic() > give_up:
                        raise
                await asyncio.sleep(RETRY_S[0])


@asynccontextmanager
async def _build(settings: ValidatorSettings, signer: Signer) -> AsyncIterator[Validator]:
    records = home_directory() / "validator"
    with open_journal(records, settings.netuid, signer.ss58_address) as journal:
        async with KinitroClient(settings.backend_url, set_by=SetBy.VALIDATOR) as client:
            yield Validator(settings, signer, client, journal)


@asynccontextmanager
async def _deadline() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(TURN_S):
            yield
    except TimeoutError:
        raise ChainUnreachable(f"A turn took longer than {TURN_S:.0f} s: the chain or the backend hangs.") from None


class _Keeper:
    """Turn after turn, with pauses that grow while there is trouble."""

    def __init__(self, settings: ValidatorSettings, validator: Validator) -> None:
        self._settings = settings
        self._validator = validator
        self._failures = 0
        self._said: tuple[str, float] | None = None

    async def run(self) -> None:
        """Runs until cancelled, or until something for good stands in the way."""
        # One chain for all turns: it connects anew after trouble, and remembers which node it had trouble with.
        async with open_chain(self._settings.network) as chain:
            while True:
                await self._turn(chain)
                await asyncio.sleep(self._pause_s())

    async def _turn(self, chain: Chain) -> None:
        try:
            async with _deadline():
                standing = await self._validator.turn(chain)
        except (ChainError, ApiError, ApiUnreachable, NoWeightsYet, WeightsRefused) as error:
            if isinstance(error, NotRegistered | ChainRejected):
                raise
            self._trouble(_EVENTS.get(type(error), "chain_trouble"), error)
            return
        if self._failures:
            log.info("validator_recovered", cycle_id=standing.attempt.cycle_id)
        log.debug("turn_ended", deed=standing.deed.value, cycle_id=standing.attempt.cycle_id)
        self._failures, self._said = 0, None

    def _trouble(self, event: str, error: KinitroError) -> None:
        """Says it once, and again when it lasts."""
        self._failures += 1
        # The same trouble a minute later often differs by a block number or an age.
        kind, now = _NUMBER.sub("#", str(error)), time.monotonic()
        if self._said is None or self._said[0] != kind or now - self._said[1] > _SAY_AGAIN_S:
            self._said = (kind, now)
            say = log.info if isinstance(error, NoWeightsYet | RateLimited) else log.warning
            say(event, reason=str(error))

    def _pause_s(self) -> float:
        if not self._failures:
            return self._settings.poll_interval_seconds
        return RETRY_S[min(self._failures, len(RETRY_S)) - 1]

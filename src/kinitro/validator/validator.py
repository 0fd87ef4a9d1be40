"""One turn of a validator: read what is published, check it, and set it on chain unless that is done and fresh."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256

from kinitro.chain import Chain, DevLedger, Signer, Subnet
from kinitro.client import KinitroClient
from kinitro.errors import AmbiguousWrite, ApiError, ApiUnreachable, ChainError, KinitroError, NotRegistered
from kinitro.logs import get_logger
from kinitro.schemas import WeightsOut
from kinitro.scoring.weights import scale_u16
from kinitro.settings import ValidatorSettings
from kinitro.validator import verify
from kinitro.validator.journal import Attempt, Fate, Journal
from kinitro.validator.verify import NoWeightsYet, Verified, WeightsRefused

log = get_logger("validator")

CONFIRM_S = 120.0
"""How long a turn waits to see its write in a finalized block."""
LAPSE_BLOCKS = 20
"""A write not seen after so many blocks counts as lost. Should it come late all the same, it says what we meant."""
_LOOK_S = 1.0


class Deed(StrEnum):
    """What a turn came to."""

    SET = "set"
    FRESH = "fresh"


@dataclass(frozen=True, slots=True)
class Standing:
    """The weights that are on chain after a turn, and the block they were written in."""

    deed: Deed
    attempt: Attempt


class Validator:
    """Sets one hotkey's weights on one netuid. Not for several tasks at once.

    It keeps the last weights that it verified, and keeps setting them until they expire, when the backend is away or
    publishes something that does not hold up.
    """

    def __init__(
        self,
        settings: ValidatorSettings,
        signer: Signer,
        client: KinitroClient,
        journal: Journal,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._signer = signer
        self._client = client
        self._journal = journal
        self._sleep = sleep
        self._held: Verified | None = None

    async def turn(self, chain: Chain) -> Standing:
        """Raises what a person must see.

        For good: `ConfigurationError` (another netuid or chain), `NotRegistered`, `ChainRejected` (no permit, among
        others). For now: `NoWeightsYet`, `WeightsRefused`, `ApiUnreachable`, `ApiError`, `RateLimited`,
        `AmbiguousWrite` and every other `ChainError`. Trouble with the backend is raised after what could be done
        without it was done.
        """
        genesis = await chain.genesis()
        trouble = await self._refresh(chain, genesis)
        if self._held is None:
            if not isinstance(chain, DevLedger):  # where it is registered as soon as there is something to set
                self._check_registered(await chain.subnet(self._settings.netuid))
            assert trouble is not None
            raise trouble
        standing = await self._bring_about(chain, genesis, self._held)
        if trouble is not None:
            raise trouble
        return standing

    def _check_registered(self, subnet: Subnet) -> None:
        hotkey = self._signer.ss58_address
        if all(neuron.hotkey != hotkey for neuron in subnet.neurons):
            raise NotRegistered(
                f"Hotkey {hotkey} is not registered on netuid {subnet.netuid}.",
                advice="Check --wallet-name, --hotkey-name, --netuid and --network; register it with "
                f"`btcli subnets register --netuid {subnet.netuid}` if they are right.",
            )

    async def _refresh(self, chain: Chain, genesis: str) -> KinitroError | None:
        """Takes over what is published now if it holds up; else says why not."""
        try:
            published = await self._published()
            verify.check_place(published, self._settings.netuid, genesis)
            if self._held is None or self._held.published != published:
                verify.check_age(published, await chain.finalized_block())
                self._held = await self._verify(chain, published)
        except (ApiError, ApiUnreachable, NoWeightsYet, WeightsRefused) as error:
            return error
        return None

    async def _published(self) -> WeightsOut:
        try:
            return await self._client.weights()
        except ApiError as error:
            if error.status_code != 404:
                raise
            url = self._settings.backend_url.rstrip("/")
            raise NoWeightsYet(
                f"{url} has published no weights yet.", advice=f"{url}/v1/status says what it waits for."
            ) from None

    async def _verify(self, chain: Chain, published: WeightsOut) -> Verified:
        verify.check_form(published)
        if not self._settings.recompute:
            log.warning("weights_trusted", cycle_id=published.cycle_id, note="--no-recompute: nothing was checked")
            return Verified(published, verify.burn_uid_of(published), None)
        export, file = await self._client.export_file(published.cycle_id)
        # Scoring a large cycle takes seconds.
        await asyncio.to_thread(verify.recompute, published, export)
        verify.check_block_hash(published, export, await chain.block_hash(export.target_block))
        digest = sha256(file).hexdigest()
        log.info("weights_verified", cycle_id=published.cycle_id, block=published.block_number, export_sha256=digest)
        return Verified(published, export.rule.burn_uid, digest)

    async def _bring_about(self, chain: Chain, genesis: str, held: Verified) -> Standing:
        last = await self._last_set(chain, genesis)
        # After everything that can take long: a share must not go to whoever has taken over a uid meanwhile.
        subnet = await chain.subnet(self._settings.netuid)
        self._check_registered(subnet)
        verify.check_age(held.published, subnet.block)
        weights = verify.settle(held, subnet)
        wanted = scale_u16(weights)
        if last and last.weights == wanted and subnet.block - last.block < self._settings.refresh_blocks:
            return Standing(Deed.FRESH, last)
        if lost := verify.lost_uids(held, subnet):
            log.warning("shares_lost", uids=lost, note="their hotkeys changed since the cycle")
        attempt = Attempt(
            fate=Fate.SENDING,
            genesis=genesis,
            cycle_id=held.published.cycle_id,
            weights=wanted,
            block=subnet.block,
            before=await chain.last_update(self._settings.netuid, self._signer.ss58_address),
            export_sha256=held.export_sha256,
        )
        return Standing(Deed.SET, await self._set(chain, attempt, weights))

    async def _last_set(self, chain: Chain, genesis: str) -> Attempt | None:
        """What we set last, if it is still what the chain has of us. A write of unknown fate is looked up first."""
        last = self._journal.last(genesis)
        if last is not None and last.fate is Fate.SENDING:
            last = await self._look_up(chain, last)
        if last is None or last.fate is not Fate.SET:
            return None
        update = await chain.last_update(self._settings.netuid, self._signer.ss58_address)
        return last if update == last.block else None

    async def _set(self, chain: Chain, attempt: Attempt, weights: dict[int, float]) -> Attempt:
        self._journal.append(attempt)
        try:
            mode = await chain.set_weights(
                self._settings.netuid, weights, self._signer, version_key=self._settings.version_key
            )
        except AmbiguousWrite:
            raise
        except ChainError as error:
            self._journal.append(_ended(attempt, fate=Fate.FAILED, reason=str(error)))
            raise
        ended = await self._look_up(chain, attempt.model_copy(update={"mode": mode}))
        if ended.fate is not Fate.SET:
            raise ChainError(f"The weights sent at block {attempt.block} never got into a finalized block.")
        return ended

    async def _look_up(self, chain: Chain, attempt: Attempt) -> Attempt:
        """The attempt as it ended: `set`, or `failed` when it came to nothing. `AmbiguousWrite` while nobody knows."""
        netuid, hotkey = self._settings.netuid, self._signer.ss58_address
        lapse = attempt.block + LAPSE_BLOCKS
        for _ in range(int(CONFIRM_S / _LOOK_S)):
            # In this order: what is not there by the lapse, read after it, never was.
            block = await chain.finalized_block()
            update = await chain.last_update(netuid, hotkey)
            if update is not None and (attempt.before or 0) < update <= lapse:
                return self._seen(_ended(attempt, fate=Fate.SET, block=update))
            if block >= lapse:
                lost = _ended(attempt, fate=Fate.FAILED, reason="the chain never took it")
                self._journal.append(lost)
                return lost
            await self._sleep(_LOOK_S)
        raise AmbiguousWrite(
            f"Weights were sent to netuid {netuid} at block {attempt.block} and are not seen on chain yet.",
            advice="They are looked up before anything is sent again.",
        )

    def _seen(self, attempt: Attempt) -> Attempt:
        self._journal.append(attempt)
        log.info(
            "weights_set",
            cycle_id=attempt.cycle_id,
            netuid=self._settings.netuid,
            block=attempt.block,
            mode=attempt.mode,
            uids=len(attempt.weights.uids),
        )
        return attempt


def _ended(attempt: Attempt, **changes: object) -> Attempt:
    return attempt.model_copy(update=changes | {"at": datetime.now(UTC)})

"""Where a submission stands: what the chain says, what the evaluator's API says, and what follows from both."""

import asyncio
from dataclasses import dataclass

from kinitro.chain import Chain
from kinitro.client import KinitroClient
from kinitro.errors import ApiError, ApiUnreachable, ChainError
from kinitro.miner.commitments import Commitment, read_commitment
from kinitro.schemas import MinerStatus, SystemStatus
from kinitro.types import MinerState, PolicyRef


@dataclass(frozen=True, slots=True)
class Standing:
    """A hotkey's submission. `chain_problem` and `api_problem` say why the one or the other is not known.

    `advice` is what its owner should know or do, the most important first. `takes_part` is false when it will not be
    evaluated as it is, or nothing could be read.
    """

    hotkey: str
    committed: Commitment | None
    chain_problem: str | None
    status: MinerStatus | None
    api_problem: str | None
    advice: tuple[str, ...]
    takes_part: bool


@dataclass(frozen=True, slots=True)
class _Chain:
    committed: Commitment | None = None
    problem: str | None = None
    genesis: str | None = None


@dataclass(frozen=True, slots=True)
class _Api:
    status: MinerStatus | None = None
    problem: str | None = None
    system: SystemStatus | None = None


async def read_standing(chain: Chain, client: KinitroClient, netuid: int, hotkey: str) -> Standing:
    """Asks both at the same time. What one of them can't tell is said, and never hides what the other does."""
    told, known = await asyncio.gather(_ask_chain(chain, netuid, hotkey), _ask_api(client, hotkey))
    foreign = _foreign(told, known, netuid)
    return Standing(
        hotkey=hotkey,
        committed=told.committed,
        chain_problem=told.problem,
        status=known.status,
        api_problem=known.problem,
        advice=(foreign,) if foreign else _advice(told, known),
        takes_part=foreign is None and _takes_part(told, known),
    )


async def _ask_chain(chain: Chain, netuid: int, hotkey: str) -> _Chain:
    try:
        genesis = await chain.genesis()
        return _Chain(await read_commitment(chain, netuid, hotkey), None, genesis)
    except ChainError as error:
        return _Chain(None, str(error))


async def _ask_api(client: KinitroClient, hotkey: str) -> _Api:
    try:
        system = await client.status()
    except (ApiError, ApiUnreachable) as error:
        return _Api(problem=str(error))
    try:
        return _Api(await client.miner(hotkey), None, system)
    except (ApiError, ApiUnreachable) as error:
        return _Api(None, str(error), system)


def _foreign(told: _Chain, known: _Api, netuid: int) -> str | None:
    """An API of another subnet knows nothing of this one."""
    system = known.system
    if system is None or system.netuid is None or told.genesis is None:
        return None
    if (system.netuid, system.genesis) == (netuid, told.genesis):
        return None
    where = "of the same chain" if system.genesis == told.genesis else f"of the chain with genesis {system.genesis}"
    return f"This API evaluates netuid {system.netuid} {where}. Check --api-url, --netuid and --network."


def _advice(told: _Chain, known: _Api) -> tuple[str, ...]:
    found, status = [], known.status
    if told.problem is None and told.committed is None:
        found.append("Commit a policy: `kinitro miner deploy --repo USER/NAME --path FOLDER`.")
    elif told.committed is not None and told.committed.problem is not None:
        found.append("Commit again: `kinitro miner commit --repo USER/NAME --revision REVISION`.")
    if status is None:
        return tuple(found)
    if told.committed is not None and told.committed.ref is not None and not _same(told.committed.ref, status):
        found.append(
            "The API has not taken in the present commitment yet; what it shows is of the one before. The next cycle "
            "takes it in, and a new revision starts at the back of the line."
        )
    elif status.state is MinerState.COPY:
        found.append("A copy earns nothing. Commit a policy of your own, or wait until the original deregisters.")
    elif status.last_result is not None and not status.last_result.prizes:
        found.append(f"It holds no prize: `kinitro explain --miner {status.uid}` says what is missing.")
    return tuple(found)


def _same(ref: PolicyRef, status: MinerStatus) -> bool:
    return ref.same_as(PolicyRef(status.repo or "", status.revision or ""))


def _takes_part(told: _Chain, known: _Api) -> bool:
    if told.problem is None:
        if told.committed is None or told.committed.ref is None:
            return False
        if known.status is None or not _same(told.committed.ref, known.status):
            return True
    return known.status is not None and known.status.state not in (MinerState.COPY, MinerState.REJECTED)

"""A miner's commitment: sent once, seen through to a finalized block, and read back as everyone else reads it."""

import asyncio
from dataclasses import dataclass

from kinitro.chain import Chain, DevLedger, Neuron, Signer, format_commitment, parse_commitment
from kinitro.errors import AmbiguousWrite, ChainUnreachable, InvalidCommitment, NotRegistered
from kinitro.types import PolicyRef


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long a write is looked for before it counts as lost. Bittensor finalizes within 40 s."""

    poll_s: float = 3.0
    lookup_s: float = 120.0
    attempts: int = 2


@dataclass(frozen=True, slots=True)
class Commit:
    """A commitment in a finalized block.

    `already` says that it was there before and nothing was sent; `replaced` is what this hotkey had committed until
    now; `registered_uid` is set when the dev ledger had to register the hotkey first.
    """

    hotkey: str
    ref: PolicyRef
    block: int
    already: bool
    replaced: PolicyRef | None
    registered_uid: int | None


@dataclass(frozen=True, slots=True)
class Commitment:
    """One hotkey's commitment as the scheduler reads it: a policy, or the reason why it is none."""

    uid: int
    hotkey: str
    block: int
    text: str
    ref: PolicyRef | None
    problem: str | None


async def commit_policy(
    chain: Chain, netuid: int, ref: PolicyRef, signer: Signer, *, patience: Patience | None = None
) -> Commit:
    """Commits a policy and waits until a finalized block holds it. On the dev ledger it registers the hotkey first.

    What is committed already is not sent again. A write whose fate is unknown is looked up before it is repeated.

    Raises:
        ConfigurationError: the reference is not valid or takes too many bytes; nothing was sent.
        NotRegistered, RateLimited, ChainRejected, ChainUnreachable: as of `Chain.commit`.
        AmbiguousWrite: it could not be found in time; it may still land.
    """
    text = format_commitment(ref)
    registered_uid = await _register_on_dev(chain, netuid, signer)
    held = await _own(chain, netuid, signer.ss58_address)
    before = _policy(held)
    if before is not None and before.same_as(ref) and held.committed_block is not None:
        return Commit(signer.ss58_address, before, held.committed_block, True, None, registered_uid)
    block = await _send(chain, netuid, text, signer, patience or Patience())
    return Commit(signer.ss58_address, ref, block, False, before, registered_uid)


async def read_commitments(chain: Chain, netuid: int) -> list[Commitment]:
    """Every commitment on a subnet at the latest finalized block, by uid."""
    subnet = await chain.subnet(netuid)
    return [commitment for neuron in subnet.neurons if (commitment := _read(neuron)) is not None]


async def read_commitment(chain: Chain, netuid: int, hotkey: str) -> Commitment | None:
    """One hotkey's, or None when it has committed nothing. `NotRegistered` when it is not on the subnet."""
    return _read(await _own(chain, netuid, hotkey))


async def _send(chain: Chain, netuid: int, text: str, signer: Signer, patience: Patience) -> int:
    trouble: AmbiguousWrite | None = None
    for _ in range(patience.attempts):
        try:
            await chain.commit(netuid, text, signer)
        except AmbiguousWrite as error:
            trouble = error
        # The block a write first gets into may be abandoned: only what is final counts.
        block = await _find(chain, netuid, text, signer.ss58_address, patience)
        if block is not None:
            return block
    raise AmbiguousWrite(
        f"The commitment did not appear in a finalized block within {patience.lookup_s:.0f} s"
        + (f": {trouble.message}" if trouble else "."),
        advice=f"It may still land. See `kinitro miner show-commitment --netuid {netuid}` before you try again; "
        "committing the same twice does no harm.",
    )


async def _find(chain: Chain, netuid: int, text: str, hotkey: str, patience: Patience) -> int | None:
    """The finalized block that holds the text; None when it is not there in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience.lookup_s
    unreachable: ChainUnreachable | None = None
    while True:
        try:
            neuron, unreachable = await _own(chain, netuid, hotkey), None
            if neuron.commitment == text:
                return neuron.committed_block
        except ChainUnreachable as error:
            unreachable = error
        if loop.time() > deadline:
            break
        await asyncio.sleep(patience.poll_s)
    if unreachable is not None:
        raise AmbiguousWrite(
            f"The commitment was sent, but what became of it can't be looked up: {unreachable.message}",
            advice=f"See `kinitro miner show-commitment --netuid {netuid}` when the chain can be reached again.",
        ) from unreachable
    return None


async def _register_on_dev(chain: Chain, netuid: int, signer: Signer) -> int | None:
    if not isinstance(chain, DevLedger):
        return None
    try:
        await _own(chain, netuid, signer.ss58_address)
    except NotRegistered:
        return await chain.register(netuid, signer.ss58_address)
    return None


async def _own(chain: Chain, netuid: int, hotkey: str) -> Neuron:
    for neuron in (await chain.subnet(netuid)).neurons:
        if neuron.hotkey == hotkey:
            return neuron
    register = f"to register: `btcli subnets register --netuid {netuid}`."
    if isinstance(chain, DevLedger):
        register = "on the dev ledger `kinitro miner deploy` and `kinitro miner commit` register it."
    raise NotRegistered(
        f"Hotkey {hotkey} is not registered on netuid {netuid}.",
        advice=f"Check --wallet-name, --hotkey-name, --netuid and --network; {register}",
    )


def _policy(neuron: Neuron) -> PolicyRef | None:
    found = _read(neuron)
    return found.ref if found else None


def _read(neuron: Neuron) -> Commitment | None:
    if neuron.commitment is None or neuron.committed_block is None:
        return None
    ref, problem = None, None
    try:
        ref = parse_commitment(neuron.commitment)
    except InvalidCommitment as error:
        problem = error.message
    return Commitment(neuron.uid, neuron.hotkey, neuron.committed_block, neuron.commitment, ref, problem)

"""The chain contract: what the scheduler, miners and validators need of a ledger, whatever ledger it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Neuron:
    """A registered hotkey, with the text it last committed and the block of that commit, if any."""

    uid: int
    hotkey: str
    commitment: str | None
    committed_block: int | None


@dataclass(frozen=True, slots=True)
class Subnet:
    """All neurons of one subnet, read at one finalized block."""

    netuid: int
    block: int
    neurons: tuple[Neuron, ...]


class Signer(Protocol):
    """Who signs a write. A bittensor Keypair is one."""

    @property
    def ss58_address(self) -> str:
        """The hotkey."""
        ...


class WeightsMode(StrEnum):
    """How the chain took the weights."""

    PLAIN = "plain"
    COMMIT_REVEAL = "commit-reveal"


class Chain(Protocol):
    """Reads are of finalized blocks only. Every call has a deadline and raises a `ChainError` of ours, no other.

    After trouble the next call connects anew: a service keeps one chain for as long as it runs.
    """

    async def genesis(self) -> str:
        """Hash of block 0, `0x` and 64 hex digits: which ledger this is."""
        ...

    async def finalized_block(self) -> int:
        """Number of the latest finalized block."""
        ...

    async def block_hash(self, block: int) -> str:
        """Hash of a finalized block, `0x` and 64 hex digits."""
        ...

    async def subnet(self, netuid: int) -> Subnet:
        """Every neuron with its commitment. `NotRegistered` when there is no such subnet."""
        ...

    async def commit(self, netuid: int, text: str, signer: Signer) -> int:
        """Writes a commitment (1 to 128 bytes) and returns its block."""
        ...

    async def set_weights(
        self, netuid: int, weights: Mapping[int, float], signer: Signer, *, version_key: int = 0
    ) -> WeightsMode:
        """Sets a validator's weights; the largest becomes 65535."""
        ...

    async def last_update(self, netuid: int, hotkey: str) -> int | None:
        """Block at which this hotkey's weights were last written, plain or sealed, as of the latest finalized block.

        A chain may count the registration as the first. None when it never was, or the hotkey is not registered.
        """
        ...

    async def has_permit(self, netuid: int, hotkey: str) -> bool:
        """Whether this hotkey may set weights for others, as of the latest finalized block; false when unknown."""
        ...

    async def close(self) -> None:
        """Closes connections. Safe to call twice."""
        ...


def shown_network(network: str) -> str:
    """The network as it may stand in a message: a URL's user, path and query can hold somebody's key."""
    parts = urlsplit(network)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else network

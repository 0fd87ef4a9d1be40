import itertools
from collections.abc import AsyncIterator

import pytest

from kinitro.chain import Signer, open_chain
from kinitro.chain.bittensor import BittensorChain
from kinitro.testing.chain_suite import ChainSuite, Stage
from kinitro.testing.local_node import LocalNode

NETUID, TIMELOCKED = 1, 2
_numbers = itertools.count()


def key(uri: str) -> Signer:
    from bittensor.sp_core import Keypair

    return Keypair.create_from_uri(uri)


async def fresh(node: LocalNode, netuid: int = NETUID, **options: object) -> tuple[str, Signer]:
    """A newly registered hotkey of this test's own."""
    uri = f"//fresh{next(_numbers)}"
    await node.dev("register", netuid, uri, f"{uri}//cold", options)
    return uri, key(uri)


@pytest.fixture
async def chain(node: LocalNode) -> AsyncIterator[BittensorChain]:
    async with open_chain(node.url) as opened:
        yield opened


VALIDATOR = {"permit": True, "stake": 10_000 * 10**9}


class TestBittensorIsAChain(ChainSuite):
    @pytest.fixture
    async def stage(self, node: LocalNode, chain: BittensorChain) -> Stage:
        (_, first), (_, second) = await fresh(node, **VALIDATOR), await fresh(node)
        await chain.finalized_block()
        return Stage(chain, netuid=NETUID, missing_netuid=77, first=first, second=second, stranger=key("//nobody"))

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from kinitro.chain import Signer, WeightsMode, dev_signer, open_chain
from kinitro.chain.bittensor import BittensorChain
from kinitro.errors import (
    AmbiguousWrite,
    ChainRejected,
    ChainUnreachable,
    ConfigurationError,
    NotRegistered,
    RateLimited,
)
from kinitro.testing.chain_suite import ChainSuite, Stage
from kinitro.testing.local_node import LocalNode, run_node

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


async def until_sent(node: LocalNode) -> None:
    """Waits until a write has reached the node's pool."""
    async with asyncio.timeout(20):
        while True:
            if (await node.dev("counts")).get("author_submitAndWatchExtrinsic"):
                return
            await asyncio.sleep(0.02)


async def until_ok(call: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(ChainUnreachable):
                await call()
                return


VALIDATOR = {"permit": True, "stake": 10_000 * 10**9}


class TestBittensorIsAChain(ChainSuite):
    @pytest.fixture
    async def stage(self, node: LocalNode, chain: BittensorChain) -> Stage:
        (_, first), (_, second) = await fresh(node, **VALIDATOR), await fresh(node)
        await chain.finalized_block()
        return Stage(chain, netuid=NETUID, missing_netuid=77, first=first, second=second, stranger=key("//nobody"))


async def test_the_scheduler_sees_plain_commitments_alone_each_with_its_own_hotkey(node, chain):
    (uri, planted), (other, sealed), (_, silent) = await fresh(node), await fresh(node), await fresh(node)
    await node.dev("commit", NETUID, uri, ["a/policy:", "a" * 40])
    await node.dev("commit", NETUID, other, ["0xff00fe"])
    _, tricky = await fresh(node)
    await chain.commit(NETUID, "0xzz", tricky)
    await node.dev("advance", 1)
    found = {neuron.hotkey: neuron.commitment for neuron in (await chain.subnet(NETUID)).neurons}
    assert found[planted.ss58_address] == "a/policy:" + "a" * 40
    assert found[sealed.ss58_address] == "0xff00fe"
    assert found[tricky.ss58_address] == "0xzz"
    assert found[silent.ss58_address] is None


async def test_a_recycled_uid_has_nothing_of_the_hotkey_that_had_it(node, chain):
    _, old = await fresh(node)
    await chain.commit(NETUID, "alpha", old)
    uid = next(n.uid for n in (await chain.subnet(NETUID)).neurons if n.hotkey == old.ss58_address)
    _, new = await fresh(node, uid=uid)
    await node.dev("advance", 1)
    (neuron,) = [n for n in (await chain.subnet(NETUID)).neurons if n.uid == uid]
    assert (neuron.hotkey, neuron.commitment) == (new.ss58_address, None)


async def test_a_full_subnet_takes_at_most_thirty_round_trips(node_folder_or_skip):
    async with run_node(node_folder_or_skip) as full, open_chain(full.url) as chain:
        for index in range(252):
            await full.dev("register", NETUID, f"//m{index}")
            await full.dev("commit", NETUID, f"//m{index}", [f"user{index}/policy:{index:040x}"])
        await chain.finalized_block()
        before = await full.dev("counts")
        subnet = await chain.subnet(NETUID)
        after = await full.dev("counts")
    assert len(subnet.neurons) == 256
    assert sum(neuron.commitment is not None for neuron in subnet.neurons) == 252
    calls = {name: after[name] - before.get(name, 0) for name in after if not name.startswith("dev_")}
    assert sum(calls.values()) <= 20, calls  # 30 are allowed


async def test_weights_are_plain_or_timelocked_as_the_subnet_wants(node, chain):
    for netuid, mode in ((NETUID, WeightsMode.PLAIN), (TIMELOCKED, WeightsMode.COMMIT_REVEAL)):
        _, validator = await fresh(node, netuid, **VALIDATOR)
        before = await chain.last_update(netuid, validator.ss58_address)
        assert await chain.set_weights(netuid, {2: 0.75, 3: 0.25}, validator) is mode
        await node.dev("advance", 1)
        assert await chain.last_update(netuid, validator.ss58_address) > (before or 0)
    assert [[2, 65535], [3, 21845]] in (await node.dev("weights", NETUID)).values()
    assert len(await node.dev("timelocked", TIMELOCKED)) == 1


async def test_without_a_permit_the_message_says_so(node, chain):
    _, miner = await fresh(node, stake=10**9)
    with pytest.raises(ChainRejected, match=r"no validator permit.*netuid 1 of ws://127"):
        await chain.set_weights(NETUID, {2: 1.0}, miner)


async def test_weights_set_too_soon_are_a_wait_and_not_a_refusal(node_folder_or_skip):
    async with run_node(node_folder_or_skip, rate_limit=100) as slow, open_chain(slow.url) as chain:
        await chain.set_weights(NETUID, {2: 1.0}, key("//Alice"))
        with pytest.raises(RateLimited, match=r"Wait and try again"):
            await chain.set_weights(NETUID, {2: 1.0}, key("//Alice"))


async def test_when_an_epochs_space_for_commitments_is_used_up_the_message_says_wait(node, chain):
    _, miner = await fresh(node)

    async def fill() -> None:
        for _ in range(40):
            await chain.commit(NETUID, "x" * 128, miner)

    with pytest.raises(RateLimited, match=r"used up its space for commitments"):
        await fill()


async def test_an_unregistered_hotkey_learns_which_flags_to_check(chain):
    with pytest.raises(NotRegistered, match=r"not registered on netuid 1 of ws://.*--hotkey-name.*btcli subnets"):
        await chain.commit(NETUID, "alpha", key("//stranger"))


async def test_a_signer_without_a_key_is_a_wrong_setting(chain):
    with pytest.raises(ConfigurationError, match="without a key"):
        await chain.commit(NETUID, "alpha", dev_signer("w", "h"))


async def test_reading_goes_on_after_every_connection_was_dropped(node, chain):
    before = await chain.finalized_block()
    with contextlib.suppress(ConnectionError):
        await node.dev("drop")
    assert await chain.finalized_block() >= before


async def test_a_node_that_is_not_there_is_unreachable_and_can_come_back(node_folder_or_skip, free_port):
    chain = BittensorChain(f"ws://user:password@127.0.0.1:{free_port}", read_deadline_s=20)
    with pytest.raises(ChainUnreachable, match=rf"ws://127.0.0.1:{free_port} can't be read") as caught:
        await chain.finalized_block()
    assert "password" not in str(caught.value)
    async with run_node(node_folder_or_skip, port=free_port):
        assert await chain.finalized_block() > 0
        await chain.close()


async def test_something_that_is_no_chain_is_unreachable(free_port):
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(hello, "127.0.0.1", free_port):
        chain = BittensorChain(f"ws://127.0.0.1:{free_port}", read_deadline_s=20)
        with pytest.raises(ChainUnreachable):
            await chain.finalized_block()
        await chain.close()


async def test_a_node_that_stops_answering_costs_a_deadline_and_then_works_again(node_folder_or_skip):
    async with run_node(node_folder_or_skip) as mute:
        chain = BittensorChain(mute.url, read_deadline_s=0.5)
        await chain.subnet(NETUID)
        await mute.dev("stall", 3)
        for _ in range(3):
            with pytest.raises(ChainUnreachable, match=r"did not answer within 0.5 s"):
                await chain.subnet(NETUID)
        await until_ok(chain.finalized_block)
        await chain.close()
        assert len(asyncio.all_tasks()) == 1, "nothing of the connections that failed is left"


async def test_a_node_that_finalizes_nothing_more_is_unreachable_until_it_does(node_folder_or_skip):
    now = 0.0
    async with run_node(node_folder_or_skip, block_time_s=0) as stuck:
        chain = BittensorChain(stuck.url, clock=lambda: now)
        head = await chain.finalized_block()
        now = 119.0
        assert await chain.finalized_block() == head
        now = 121.0
        with pytest.raises(ChainUnreachable, match=rf"finalized no block for 121 s: it stands at {head}"):
            await chain.finalized_block()
        with pytest.raises(ChainUnreachable, match="finalized no block"):
            await chain.subnet(NETUID)
        await stuck.dev("advance", 1)
        assert await chain.finalized_block() == head + 1
        await chain.close()


async def test_a_write_cut_off_before_its_verdict_is_ambiguous_and_the_next_one_works(node_folder_or_skip):
    async with run_node(node_folder_or_skip, block_time_s=2) as cut:
        chain = BittensorChain(cut.url)
        await chain.finalized_block()
        writing = asyncio.create_task(chain.commit(NETUID, "alpha", key("//Dave")))
        await until_sent(cut)
        with contextlib.suppress(ConnectionError):
            await cut.dev("drop")
        with pytest.raises(AmbiguousWrite, match="look it up before you try again"):
            await writing
        assert await chain.commit(NETUID, "beta", key("//Charlie")) > 0
        await chain.close()


async def test_a_write_that_no_block_takes_in_time_is_ambiguous(node_folder_or_skip):
    async with run_node(node_folder_or_skip, block_time_s=30) as slow:
        chain = BittensorChain(slow.url, write_deadline_s=1.0)
        with pytest.raises(AmbiguousWrite):
            await chain.commit(NETUID, "alpha", key("//Dave"))
        await chain.close()


async def test_a_cancelled_call_leaves_a_chain_that_works(node, chain):
    reading = asyncio.create_task(chain.subnet(NETUID))
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert (await chain.subnet(NETUID)).neurons


async def test_many_calls_at_once_share_one_connection(node, chain):
    blocks = await asyncio.gather(*(chain.finalized_block() for _ in range(20)), chain.genesis())
    assert blocks[-1] == node.genesis

"""A validator on a local Bittensor node: plain and timelocked weights, refusals, and connections that fail."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from kinitro.chain import Signer, WeightsMode, open_chain
from kinitro.errors import ChainRejected, NotRegistered, RateLimited
from kinitro.settings import ValidatorSettings
from kinitro.testing.local_node import NOT_THERE, LocalNode, node_folder, run_node
from kinitro.validator import Deed, serve, set_once

PLAIN, TIMELOCKED = 1, 2
ALICE, CHARLIE, DAVE = 0, 2, 3
WINS = {CHARLIE: ("metaworld/drawer-close-v3",), DAVE: ("metaworld/reach-v3",)}
BOTH = [[CHARLIE, 65535], [DAVE, 13107]]


def key(uri: str) -> Signer:
    from bittensor.sp_core import Keypair

    return Keypair.create_from_uri(uri)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    found = node_folder()
    if found is None:
        pytest.skip(NOT_THERE)
    # The SDK's caches are the tests' own; their places are read when it is first imported.
    caches = tmp_path_factory.mktemp("bittensor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(caches))
        patch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(caches))
        patch.setenv("BTCLI_TOKEN_SYMBOLS_CACHE", str(caches / "symbols.json"))
        yield found


@dataclass(frozen=True)
class Town:
    node: LocalNode
    backend: object

    def settings(self, netuid: int = PLAIN, **changes: object) -> ValidatorSettings:
        values = {"backend_url": self.backend.url, "network": self.node.url, "netuid": netuid}
        return ValidatorSettings(**(values | {"poll_interval_seconds": 0.2} | changes))

    async def complete_cycle(self, netuid: int = PLAIN) -> int:
        async with open_chain(self.node.url) as chain:
            return await self.backend.complete_cycle(chain, netuid, WINS)

    async def last_update(self) -> int:
        async with open_chain(self.node.url) as chain:
            last = await chain.last_update(PLAIN, key("//Alice").ss58_address)
        assert last is not None
        return last

    async def until_updated(self, *, after: int) -> int:
        async with asyncio.timeout(60):
            while (last := await self.last_update()) <= after:  # noqa: ASYNC110 - the chain offers no event
                await asyncio.sleep(0.1)
        return last

    @asynccontextmanager
    async def serving(self, **changes: object) -> AsyncIterator[asyncio.Task[None]]:
        running = asyncio.create_task(serve(self.settings(**changes), key("//Alice")))
        try:
            yield running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest_asyncio.fixture
async def town(folder: Path, backend: object, kinitro_home: Path) -> AsyncIterator[Town]:
    async with run_node(folder) as node:
        yield Town(node, backend)


async def test_weights_are_set_plainly_where_the_subnet_takes_them_so(town):
    await town.complete_cycle()
    standing = await set_once(town.settings(), key("//Alice"))
    assert (standing.deed, standing.attempt.mode) == (Deed.SET, WeightsMode.PLAIN)
    assert await town.node.dev("weights", PLAIN) == {str(ALICE): BOTH}
    assert (await set_once(town.settings(), key("//Alice"))).deed is Deed.FRESH


async def test_weights_are_committed_under_a_timelock_where_the_subnet_wants_that(town):
    await town.complete_cycle(TIMELOCKED)
    standing = await set_once(town.settings(TIMELOCKED), key("//Alice"))
    assert (standing.deed, standing.attempt.mode) == (Deed.SET, WeightsMode.COMMIT_REVEAL)
    ((hotkey, block, *_),) = await town.node.dev("timelocked", TIMELOCKED)
    assert (hotkey.removeprefix("0x"), block) == (key("//Alice").public_key.hex(), standing.attempt.block)
    assert (await set_once(town.settings(TIMELOCKED), key("//Alice"))).deed is Deed.FRESH


async def test_a_hotkey_without_a_permit_ends_the_validator_and_is_told_how_to_get_one(town):
    await town.complete_cycle()
    with pytest.raises(ChainRejected, match="no validator permit"):
        await asyncio.wait_for(serve(town.settings(), key("//Bob")), 60)


async def test_a_hotkey_that_is_not_registered_ends_the_validator(town):
    with pytest.raises(NotRegistered, match="is not registered on netuid 1"):
        await asyncio.wait_for(serve(town.settings(), key("//Eve")), 60)


async def test_the_rate_limit_is_said_and_waited_out(town, capsys):
    await town.complete_cycle()
    await town.node.dev("hyper", "WeightsSetRateLimit", PLAIN, 10_000)
    with pytest.raises(RateLimited, match="Wait and try again"):
        await set_once(town.settings(), key("//Alice"))
    before = await town.last_update()
    async with town.serving() as running:
        await asyncio.sleep(1)
        await town.node.dev("hyper", "WeightsSetRateLimit", PLAIN, 0)
        await town.until_updated(after=before)
        assert not running.done()
    assert "rate_limited" in capsys.readouterr().out


async def test_a_share_of_a_uid_that_was_recycled_after_scoring_goes_to_the_others(town):
    await town.complete_cycle()
    await town.node.dev("register", PLAIN, "//newcomer", "//newcomer//cold", {"uid": CHARLIE})
    await set_once(town.settings(), key("//Alice"))
    assert await town.node.dev("weights", PLAIN) == {str(ALICE): [[DAVE, 65535]]}


async def test_a_write_whose_connection_drops_is_looked_up_and_sent_once(folder, backend, kinitro_home):
    async with run_node(folder, block_time_s=1.0) as node:
        town = Town(node, backend)
        await town.complete_cycle()
        setting = asyncio.create_task(set_once(town.settings(), key("//Alice")))
        async with asyncio.timeout(30):
            while not (await node.dev("counts")).get("author_submitAndWatchExtrinsic"):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        with pytest.raises(ConnectionError):
            await node.dev("drop")
        assert (await setting).attempt.block == await town.last_update()
        sent = [each for each in await node.dev("extrinsics") if "weights" in str(each)]
        assert len(sent) == 1


async def test_the_service_goes_on_after_a_dropped_connection_and_a_stalled_node(town):
    await town.complete_cycle()
    async with town.serving(refresh_blocks=5) as running:
        first = await town.until_updated(after=await town.last_update())
        with pytest.raises(ConnectionError):
            await town.node.dev("drop")
        second = await town.until_updated(after=first + 5)
        await town.node.dev("stall", 3)
        await town.until_updated(after=second + 5)
        assert not running.done()

"""What every `Chain` must do. A subclass gives the `stage` fixture; pytest runs the rest."""
# ruff: noqa: D102 - the names are the sentences

import asyncio
from dataclasses import dataclass

import pytest

from kinitro.chain.base import Chain, Neuron, Signer, WeightsMode
from kinitro.errors import ChainError, ChainRejected, NotRegistered

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Stage:
    """A chain with one subnet on which `first` and `second` are registered and `stranger` is not."""

    chain: Chain
    netuid: int
    missing_netuid: int
    first: Signer
    second: Signer
    stranger: Signer

    async def neuron(self, signer: Signer) -> Neuron:
        """The signer's neuron as finalized."""
        subnet = await self.chain.subnet(self.netuid)
        return next(neuron for neuron in subnet.neurons if neuron.hotkey == signer.ss58_address)

    async def until_final(self, block: int) -> None:
        """Waits until a block is finalized."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                if await self.chain.finalized_block() >= block:
                    return
                await asyncio.sleep(0.05)

    async def until_updated(self, hotkey: str, before: int | None) -> int:
        """Waits until the hotkey's last update is another than `before`, and returns it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                last = await self.chain.last_update(self.netuid, hotkey)
                if last is not None and last != before:
                    return last
                await asyncio.sleep(0.05)


class ChainSuite:
    """Inherited by the tests of each chain."""

    async def test_block_zero_is_the_genesis_and_never_changes(self, stage: Stage) -> None:
        genesis = await stage.chain.genesis()
        assert genesis == await stage.chain.block_hash(0) == await stage.chain.genesis()
        assert genesis.startswith("0x")
        assert len(bytes.fromhex(genesis[2:])) == 32

    async def test_finalized_blocks_come_one_after_the_other_each_with_its_own_hash(self, stage: Stage) -> None:
        first = await stage.chain.finalized_block()
        await stage.until_final(first + 2)
        hashes = [await stage.chain.block_hash(block) for block in (first, first + 1, first + 2)]
        assert len(set(hashes)) == 3
        assert hashes[0] == await stage.chain.block_hash(first)

    async def test_the_hash_of_a_block_that_does_not_exist_yet_is_an_error(self, stage: Stage) -> None:
        with pytest.raises(ChainError):
            await stage.chain.block_hash(await stage.chain.finalized_block() + 100_000)

    async def test_a_commitment_is_read_back_with_its_block(self, stage: Stage) -> None:
        block = await stage.chain.commit(stage.netuid, "alpha", stage.first)
        await stage.until_final(block)
        neuron = await stage.neuron(stage.first)
        assert (neuron.commitment, neuron.committed_block) == ("alpha", block)
        assert (await stage.neuron(stage.second)).commitment is None

    async def test_only_the_latest_commitment_counts_even_when_it_is_the_same_text(self, stage: Stage) -> None:
        first = await stage.chain.commit(stage.netuid, "alpha", stage.first)
        await stage.until_final(first)
        again = await stage.chain.commit(stage.netuid, "alpha", stage.first)
        await stage.until_final(again)
        assert first < again == (await stage.neuron(stage.first)).committed_block

    async def test_a_subnet_is_read_at_a_finalized_block_with_every_neuron_once(self, stage: Stage) -> None:
        before = await stage.chain.finalized_block()
        subnet = await stage.chain.subnet(stage.netuid)
        assert subnet.netuid == stage.netuid
        assert before <= subnet.block <= await stage.chain.finalized_block()
        hotkeys = [neuron.hotkey for neuron in subnet.neurons]
        assert {stage.first.ss58_address, stage.second.ss58_address} <= set(hotkeys)
        assert stage.stranger.ss58_address not in hotkeys
        assert len(set(hotkeys)) == len(hotkeys) == len({neuron.uid for neuron in subnet.neurons})

    async def test_a_missing_subnet_is_an_error_and_not_an_empty_one(self, stage: Stage) -> None:
        with pytest.raises(NotRegistered):
            await stage.chain.subnet(stage.missing_netuid)
        with pytest.raises(NotRegistered):
            await stage.chain.commit(stage.missing_netuid, "alpha", stage.first)

    async def test_an_unregistered_hotkey_can_write_nothing(self, stage: Stage) -> None:
        with pytest.raises(NotRegistered):
            await stage.chain.commit(stage.netuid, "alpha", stage.stranger)
        uid = (await stage.neuron(stage.first)).uid
        with pytest.raises(NotRegistered):
            await stage.chain.set_weights(stage.netuid, {uid: 1.0}, stage.stranger)

    async def test_a_stranger_has_no_permit(self, stage: Stage) -> None:
        assert not await stage.chain.has_permit(stage.netuid, stage.stranger.ss58_address)

    @pytest.mark.parametrize("text", ["", "x" * 129, "é" * 65])
    async def test_a_commitment_takes_1_to_128_bytes(self, stage: Stage, text: str) -> None:
        with pytest.raises(ChainRejected):
            await stage.chain.commit(stage.netuid, text, stage.first)

    async def test_a_validator_sets_weights(self, stage: Stage) -> None:
        uid = (await stage.neuron(stage.second)).uid
        mode = await stage.chain.set_weights(stage.netuid, {uid: 1.0}, stage.first)
        assert mode in WeightsMode

    async def test_the_last_update_moves_to_the_block_in_which_weights_were_set(self, stage: Stage) -> None:
        hotkey, uid = stage.first.ss58_address, (await stage.neuron(stage.second)).uid
        before = await stage.chain.last_update(stage.netuid, hotkey)
        start = await stage.chain.finalized_block()
        await stage.chain.set_weights(stage.netuid, {uid: 1.0}, stage.first)
        last = await stage.until_updated(hotkey, before)
        assert start < last <= await stage.chain.finalized_block()
        assert await stage.chain.last_update(stage.netuid, stage.stranger.ss58_address) is None

    async def test_weights_that_are_all_zero_are_refused(self, stage: Stage) -> None:
        uid = (await stage.neuron(stage.second)).uid
        with pytest.raises(ChainRejected):
            await stage.chain.set_weights(stage.netuid, {uid: 0.0}, stage.first)

    async def test_closing_twice_is_safe(self, stage: Stage) -> None:
        await stage.chain.close()
        await stage.chain.close()

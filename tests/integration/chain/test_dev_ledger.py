import asyncio
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from kinitro.chain import DevLedger, dev_signer, open_chain
from kinitro.chain.dev import DevSigner, DevWeights
from kinitro.errors import ChainRejected, ChainUnreachable
from kinitro.testing.chain_suite import ChainSuite, Stage

ALICE, BOB, CAROL = (dev_signer("tests", name) for name in ("alice", "bob", "carol"))
FAST = 0.05


@pytest.fixture
def ledger(tmp_path: Path) -> DevLedger:
    return DevLedger(tmp_path / "ledger.sqlite", block_s=FAST)


class TestDevLedgerIsAChain(ChainSuite):
    @pytest.fixture
    async def stage(self, ledger: DevLedger) -> Stage:
        for signer in (ALICE, BOB):
            await ledger.register(2, signer.ss58_address)
        return Stage(ledger, netuid=2, missing_netuid=7, first=ALICE, second=BOB, stranger=CAROL)


async def test_uids_are_given_from_zero_and_a_hotkey_keeps_its_own(ledger: DevLedger) -> None:
    assert [await ledger.register(1, s.ss58_address) for s in (ALICE, BOB, ALICE)] == [0, 1, 0]


async def test_a_uid_can_pass_to_another_hotkey_which_has_no_commitment_of_the_old_one(ledger: DevLedger) -> None:
    await ledger.register(1, ALICE.ss58_address)
    await ledger.commit(1, "alpha", ALICE)
    assert await ledger.register(1, BOB.ss58_address, uid=0) == 0
    (neuron,) = (await ledger.subnet(1)).neurons
    assert (neuron.uid, neuron.hotkey, neuron.commitment) == (0, BOB.ss58_address, None)
    # The deregistered hotkey comes back under another uid, its commitment with it, as on the real chain.
    assert await ledger.register(1, ALICE.ss58_address) == 1
    assert (await ledger.subnet(1)).neurons[1].commitment == "alpha"


async def test_a_hotkey_can_not_hold_two_uids(ledger: DevLedger) -> None:
    await ledger.register(1, ALICE.ss58_address)
    with pytest.raises(ChainRejected, match="already registered"):
        await ledger.register(1, ALICE.ss58_address, uid=5)


async def test_weights_read_back_as_u16_with_zeros_dropped(ledger: DevLedger) -> None:
    for signer in (ALICE, BOB, CAROL):
        await ledger.register(1, signer.ss58_address)
    await ledger.set_weights(1, {0: 0.2, 1: 0.6, 2: 0.0}, ALICE, version_key=3)
    (found,) = await ledger.weights(1)
    assert found == DevWeights(ALICE.ss58_address, found.block, 3, {0: 21845, 1: 65535})
    await ledger.set_weights(1, {2: 1.0}, ALICE)
    (found,) = await ledger.weights(1)
    assert found.values == {2: 65535}


async def test_weights_for_a_uid_that_does_not_exist_are_refused(ledger: DevLedger) -> None:
    await ledger.register(1, ALICE.ss58_address)
    with pytest.raises(ChainRejected, match="9"):
        await ledger.set_weights(1, {9: 1.0}, ALICE)


async def test_the_ledger_outlives_its_process(ledger: DevLedger, tmp_path: Path) -> None:
    await ledger.register(1, ALICE.ss58_address)
    block = await ledger.commit(1, "alpha", ALICE)
    again = DevLedger(tmp_path / "ledger.sqlite")
    assert await again.genesis() == await ledger.genesis()
    assert await again.block_hash(block) == await ledger.block_hash(block)
    assert (await again.subnet(1)).neurons[0].commitment == "alpha"


async def test_a_block_takes_the_time_the_ledger_was_made_with(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    await DevLedger(path, block_s=0.5).finalized_block()
    start, begun = await DevLedger(path).finalized_block(), time.monotonic()
    for _ in range(100):
        if await DevLedger(path).finalized_block() >= start + 3:
            break
        await asyncio.sleep(0.02)
    assert 0.9 < time.monotonic() - begun < 2.5


async def test_blocks_never_go_backwards_when_the_clock_does(
    ledger: DevLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.register(1, ALICE.ss58_address)
    real, head = time.time, await ledger.finalized_block()
    monkeypatch.setattr(time, "time", lambda: real() - 86_400)
    assert await ledger.finalized_block() >= head
    await asyncio.sleep(3 * FAST)
    assert await ledger.finalized_block() > head


async def test_many_processes_write_at_once_and_nothing_is_lost(ledger: DevLedger, tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from kinitro.chain import DevLedger, dev_signer\n"
        "async def main(path, who):\n"
        "    ledger = DevLedger(Path(path), block_s=0.05)\n"
        "    for i in range(5):\n"
        "        signer = dev_signer(who, str(i))\n"
        "        await ledger.register(1, signer.ss58_address)\n"
        "        await ledger.commit(1, f'{who}-{i}', signer)\n"
        "asyncio.run(main(*sys.argv[1:]))\n"
    )
    path = str(tmp_path / "ledger.sqlite")  # none of them finds the file: its making is raced too
    processes = [await asyncio.create_subprocess_exec(sys.executable, "-c", program, path, who) for who in "abcd"]
    assert await asyncio.gather(*(process.wait() for process in processes)) == [0] * 4
    subnet = await ledger.subnet(1)
    assert [neuron.uid for neuron in subnet.neurons] == list(range(20))
    assert {neuron.commitment for neuron in subnet.neurons} == {f"{who}-{i}" for who in "abcd" for i in range(5)}


async def test_a_file_that_is_no_ledger_is_named_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("this is not a database, and long enough to have a header")
    with pytest.raises(ChainUnreachable, match=r"ledger\.sqlite.*move the file away"):
        await DevLedger(path).finalized_block()


async def test_a_ledger_that_stays_locked_is_unreachable_and_not_a_hang(
    ledger: DevLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinitro.chain.dev._BUSY_TIMEOUT_S", 0.2)
    await ledger.genesis()
    holder = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    holder.execute("begin immediate")
    try:
        with pytest.raises(ChainUnreachable, match="locked"):
            await ledger.finalized_block()
    finally:
        holder.close()


async def test_network_dev_is_a_ledger_under_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINITRO_HOME", str(tmp_path))
    async with open_chain("dev") as chain:
        assert await chain.finalized_block() >= 0
    assert (tmp_path / "dev-ledger.sqlite").exists()


def test_a_signer_is_the_same_for_the_same_names_and_another_for_others() -> None:
    assert dev_signer("w", "a") == dev_signer("w", "a")
    assert len({dev_signer("w", "a"), dev_signer("w", "b"), dev_signer("wa", ""), DevSigner("5x")}) == 4

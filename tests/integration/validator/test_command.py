"""`kinitro validate` as an operator starts it."""

import asyncio
import os
import signal
import sys

import pytest

from kinitro.chain import dev_signer

NETUID = 7


async def start(village, backend, *flags: str, **variables: str) -> asyncio.subprocess.Process:
    command = [
        sys.executable,
        "-m",
        "kinitro",
        "validate",
        "--backend-url",
        backend.url,
        "--netuid",
        str(NETUID),
        *flags,
    ]
    return await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, "KINITRO_HOME": str(village.home), "BT_NETWORK": "dev", **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(village, backend, *flags: str, **variables: str) -> tuple[int | None, str, str]:
    process = await start(village, backend, *flags, **variables)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def published(backend, village):
    wins = {village.first: ("metaworld/drawer-close-v3",), village.second: ("metaworld/reach-v3",)}
    return await backend.complete_cycle(village.ledger, NETUID, wins)


NAMES = ("--wallet-name", "village", "--hotkey-name", "validator")


async def test_once_says_what_was_set_and_a_second_time_that_it_is_there(backend, village, published):
    code, out, _ = await run(village, backend, *NAMES, "--once")
    block = await village.last_update()
    assert (code, out) == (
        0, f"Set: cycle {published}'s weights on netuid 7, block {block} (plain): uid 1 83.3%, uid 2 16.7%\n"
    )  # fmt: skip
    code, out, _ = await run(village, backend, "--wallet.name", "village", "--wallet.hotkey", "validator", "--once")
    assert (code, out.partition(":")[0]) == (0, "Already set")


async def test_once_exits_with_1_and_one_clear_line_when_nothing_can_be_set(backend, village):
    code, out, err = await run(village, backend, *NAMES, "--once")
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert "has published no weights yet" in err
    assert "Traceback" not in err


async def test_a_single_turn_on_the_dev_ledger_registers_nobody_when_there_is_nothing_to_set(backend, village):
    code, out, err = await run(village, backend, "--once", BT_WALLET="village", BT_WALLET_HOTKEY="newcomer")
    assert (code, out) == (1, "")
    assert "has published no weights yet" in err
    assert dev_signer("village", "newcomer").ss58_address not in {
        neuron.hotkey for neuron in (await village.ledger.subnet(NETUID)).neurons
    }


async def test_the_dev_ledger_takes_a_new_validator_in_but_has_no_subnets_to_give(backend, village, published):
    code, _, err = await run(village, backend, "--once", BT_WALLET="village", BT_WALLET_HOTKEY="newcomer")
    assert code == 0
    assert "Registered the hotkey on netuid 7 of the dev ledger: uid 3." in err
    assert dev_signer("village", "newcomer").ss58_address in {
        neuron.hotkey for neuron in (await village.ledger.subnet(NETUID)).neurons
    }
    code, _, err = await run(village, backend, "--once", "--netuid", "9")
    assert code == 1
    assert "The dev ledger has no subnet 9" in err


async def test_the_validators_own_variables_come_before_btclis(backend, village, published):
    variables = {"KINITRO_VALIDATOR_WALLET_NAME": "village", "KINITRO_VALIDATOR_HOTKEY_NAME": "validator"}
    code, out, _ = await run(
        village,
        backend,
        "--once",
        BT_NETWORK="nowhere",
        BT_WALLET="other",
        KINITRO_VALIDATOR_NETWORK="dev",
        **variables,
    )
    assert code == 0, out
    assert await village.weights() == {village.first: 65535, village.second: 13107}


async def test_a_wallet_that_is_not_there_is_said_before_anything_else(backend, village):
    flags = ("--network", "ws://127.0.0.1:9", "--wallet-path", str(village.home), "--wallet-name", "none")
    code, _, err = await run(village, backend, *flags, "--once")
    assert code == 1
    assert err.startswith("Error: There is no wallet 'none' in ")


async def test_the_service_sets_and_ends_cleanly_when_its_supervisor_says_so(backend, village, published):
    process = await start(village, backend, *NAMES)
    async with asyncio.timeout(30):
        while b"weights_set" not in (line := await process.stderr.readline()):
            assert line, "it ended"
    process.send_signal(signal.SIGTERM)
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert await village.weights() == {village.first: 65535, village.second: 13107}

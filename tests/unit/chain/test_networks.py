import sys

import pytest

from kinitro.chain import open_chain
from kinitro.chain.ss58 import encode_ss58
from kinitro.errors import ConfigurationError


def test_an_address_is_the_known_one_of_a_known_key() -> None:
    alice = bytes.fromhex("d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d")
    assert encode_ss58(alice) == "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@pytest.mark.parametrize("network", ["finney", "test", "local", "ws://127.0.0.1:9944", "wss://node.example:443"])
async def test_a_bittensor_network_connects_only_when_it_is_first_asked(network: str) -> None:
    pytest.importorskip("bittensor", reason="needs the `chain` extra")
    async with open_chain(network):
        pass


async def test_without_the_sdk_a_bittensor_network_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bittensor", None)
    with pytest.raises(ConfigurationError, match=r"pip install '\.\[chain\]'"):
        async with open_chain("finney"):
            pass


async def test_a_network_nobody_knows_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match="finney, test, local"):
        async with open_chain("mainnet"):
            pass

"""Chains behind one contract, and the text that miners commit there."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kinitro.chain.base import Chain, Neuron, Signer, Subnet, WeightsMode, shown_network
from kinitro.chain.commitment import format_commitment, parse_commitment
from kinitro.chain.dev import DevLedger, dev_signer
from kinitro.chain.wallets import HotkeyName, hotkey_address, load_signer
from kinitro.errors import ConfigurationError
from kinitro.settings import home_directory

__all__ = [
    "DEV_LEDGER_FILE",
    "Chain",
    "DevLedger",
    "HotkeyName",
    "Neuron",
    "Signer",
    "Subnet",
    "WeightsMode",
    "dev_signer",
    "format_commitment",
    "hotkey_address",
    "load_signer",
    "open_chain",
    "parse_commitment",
    "shown_network",
]

DEV_LEDGER_FILE = "dev-ledger.sqlite"
_BITTENSOR = re.compile(r"finney|test|local|wss?://\S+")


@asynccontextmanager
async def open_chain(network: str) -> AsyncIterator[Chain]:
    """The chain a `--network` value means, closed at the end. `ConfigurationError` for a name that means none."""
    chain = _chain(network)
    try:
        yield chain
    finally:
        await chain.close()


def _chain(network: str) -> Chain:
    if network == "dev":
        return DevLedger(home_directory() / DEV_LEDGER_FILE)
    if _BITTENSOR.fullmatch(network):
        from kinitro.chain.bittensor import BittensorChain  # noqa: PLC0415 - its SDK is optional and slow

        return BittensorChain(network)
    raise ConfigurationError(
        f"There is no network called {network!r}.",
        advice="Use --network finney, test, local, a ws:// or wss:// URL, or dev.",
    )

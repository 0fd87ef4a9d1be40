"""Flags of every command that has a wallet: our names, btcli's spellings of them, and btcli's `BT_*` variables.

A command takes the flags (all None when not given), then `chosen_wallet` and `chosen_network` settle what was meant:
flag, then variable, then `.env`, then default.
"""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kinitro.chain import HotkeyName

WalletNameFlag = Annotated[
    str | None,
    typer.Option(
        "--wallet-name",
        "--wallet",
        "--wallet.name",
        help="The wallet's name (BT_WALLET).",
        show_default="default",
    ),
]
HotkeyNameFlag = Annotated[
    str | None,
    typer.Option(
        "--hotkey-name",
        "--wallet-hotkey",
        "--wallet.hotkey",
        help="The hotkey's name in the wallet (BT_WALLET_HOTKEY).",
        show_default="default",
    ),
]
WalletPathFlag = Annotated[
    str | None,
    typer.Option(
        "--wallet-path",
        "--wallet.path",
        help="The folder of the wallets (BT_WALLET_PATH).",
        show_default="~/.bittensor/wallets",
    ),
]
NetworkFlag = Annotated[
    str | None,
    typer.Option(
        "--network",
        help="finney, test, local, ws://..., or dev, an embedded ledger (BT_NETWORK).",
        show_default="finney",
    ),
]
NetuidFlag = Annotated[int, typer.Option("--netuid", min=0, max=65535, help="The subnet.")]


def chosen_wallet(wallet_name: str | None, hotkey_name: str | None, wallet_path: str | None) -> "HotkeyName":
    """The hotkey that flags and variables name. `ConfigurationError` for a name that can't be one."""
    from kinitro.chain.wallets import DEFAULT_WALLET_PATH, HotkeyName
    from kinitro.settings import BtcliSettings

    chosen = BtcliSettings.load(wallet=wallet_name, wallet_hotkey=hotkey_name, wallet_path=wallet_path)
    return HotkeyName(chosen.wallet, chosen.wallet_hotkey, chosen.wallet_path or DEFAULT_WALLET_PATH)


def wallet_is_named(wallet_name: str | None, hotkey_name: str | None) -> bool:
    """True when a flag or variable names a wallet or hotkey at all."""
    from kinitro.settings import BtcliSettings

    chosen = BtcliSettings.load(wallet=wallet_name, wallet_hotkey=hotkey_name)
    return bool(chosen.model_fields_set & {"wallet", "wallet_hotkey"})


def chosen_network(flag: str | None) -> str:
    """The network, for a command that has no `KINITRO_..._NETWORK` of its own."""
    from kinitro.settings import BtcliSettings

    return BtcliSettings.load(network=flag).network

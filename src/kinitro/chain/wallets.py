"""Wallets as flags name them: where a hotkey's file is, and the signer in it. Coldkeys are never touched."""

import json
from dataclasses import dataclass
from pathlib import Path

from kinitro.chain.base import Signer
from kinitro.chain.dev import dev_signer
from kinitro.errors import ConfigurationError

DEFAULT_WALLET_PATH = Path("~/.bittensor/wallets")
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class HotkeyName:
    """One hotkey of one wallet. `folder` holds the wallets, as btcli lays them out."""

    wallet: str = "default"
    hotkey: str = "default"
    folder: Path = DEFAULT_WALLET_PATH

    def __post_init__(self) -> None:
        """Refuses a name that would lead out of its folder, with `ConfigurationError`."""
        for flag, name in (("--wallet-name", self.wallet), ("--hotkey-name", self.hotkey)):
            if name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\") or len(name) > 100:
                raise ConfigurationError(
                    f"{name!a} can't be the name of a wallet or hotkey ({flag}).",
                    advice="Give the plain names that `btcli wallet list` shows, the hotkey's by --hotkey-name.",
                )

    @property
    def file(self) -> Path:
        """Where the hotkey's secret is."""
        return self.folder.expanduser() / self.wallet / "hotkeys" / self.hotkey

    @property
    def public_file(self) -> Path:
        """Where its address is, when btcli wrote that too."""
        return self.file.with_name(f"{self.hotkey}pub.txt")


def load_signer(network: str, name: HotkeyName) -> Signer:
    """The hotkey to sign with. Asks for the password of an encrypted one on a terminal: call it before the event loop.

    On `dev` no file is read: any names will do. `ConfigurationError` when the file is missing, not readable, not a
    key, or encrypted without a way to ask (`BT_WALLET_PASSWORD` then holds the password).
    """
    if network == "dev":
        return dev_signer(name.wallet, name.hotkey)
    _check_present(name)
    from kinitro.chain.bittensor import read_hotkey  # noqa: PLC0415 - its SDK is optional and slow

    return read_hotkey(name.file)


def hotkey_address(network: str, name: HotkeyName) -> str:
    """The hotkey's address, without its password where btcli wrote the public half. Errors as of `load_signer`."""
    if network != "dev" and (address := _address_in(name.public_file)) is not None:
        return address
    # The secret file says it too, and names the trouble when there is any.
    return load_signer(network, name).ss58_address


def public_address(network: str, name: HotkeyName) -> str | None:
    """The hotkey's address if it can be told without a password. `ConfigurationError` when there is no such hotkey."""
    if network == "dev":
        return dev_signer(name.wallet, name.hotkey).ss58_address
    _check_present(name)
    return _address_in(name.public_file) or _address_in(name.file)


def _address_in(file: Path) -> str | None:
    """What a keyfile of btcli says of its address, if it is not encrypted."""
    try:
        address = json.loads(file.read_bytes()).get("ss58Address")
    except (OSError, ValueError, AttributeError):
        return None
    return address if isinstance(address, str) else None


def _check_present(name: HotkeyName) -> None:
    if name.file.is_file():
        return
    wallet = name.file.parent.parent
    if not wallet.is_dir():
        raise ConfigurationError(
            f"There is no wallet {name.wallet!r} in {wallet.parent}{_present(wallet.parent)}.",
            advice="Check --wallet-name and --wallet-path (BT_WALLET, BT_WALLET_PATH).",
        )
    raise ConfigurationError(
        f"Wallet {name.wallet!r} has no hotkey {name.hotkey!r} in {name.file.parent}{_present(name.file.parent)}.",
        advice="Check --hotkey-name (BT_WALLET_HOTKEY).",
    )


def _present(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    names = [each for each in names if not each.endswith("pub.txt") and not each.startswith(".")]
    more = ", ..." if len(names) > _SHOWN else ""
    return f" (there: {', '.join(names[:_SHOWN])}{more})" if names else ""

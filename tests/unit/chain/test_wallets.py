import json
import os
from pathlib import Path

import pytest

from kinitro.chain import HotkeyName, dev_signer, hotkey_address, load_signer
from kinitro.cli.wallet_flags import chosen_network, chosen_wallet, wallet_is_named
from kinitro.errors import ConfigurationError

ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
NETWORK = "ws://127.0.0.1:1"  # a wallet is read without any chain


@pytest.fixture(autouse=True)
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write_hotkey(folder: Path, wallet: str, hotkey: str, password: str | None = None) -> HotkeyName:
    bittensor = pytest.importorskip("bittensor", reason="needs the `chain` extra")
    from bittensor.sp_core import Keypair

    made = bittensor.Wallet(wallet, hotkey, path=str(folder))
    encrypted = password is not None
    made.hotkey_file.set_keypair(
        Keypair.create_from_uri("//Alice"), encrypt=encrypted, overwrite=True, password=password
    )
    return HotkeyName(wallet, hotkey, folder)


def test_a_hotkey_of_btclis_is_loaded(tmp_path: Path) -> None:
    assert load_signer(NETWORK, write_hotkey(tmp_path, "alice", "default")).ss58_address == ALICE


def test_on_dev_no_file_is_read(tmp_path: Path) -> None:
    name = HotkeyName("bob", "hot", tmp_path / "nothing")
    assert load_signer("dev", name) == dev_signer("bob", "hot")
    assert hotkey_address("dev", name) == dev_signer("bob", "hot").ss58_address


@pytest.mark.parametrize("bad", ["", ".", "..", "../../etc", "a/b", "a\\b", "line\nbreak", "x" * 200])
def test_a_name_that_leads_out_of_its_folder_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="--wallet-name"):
        HotkeyName(wallet=bad)
    with pytest.raises(ConfigurationError, match="--hotkey-name"):
        HotkeyName(hotkey=bad)


def test_a_missing_wallet_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    write_hotkey(tmp_path, "alice", "default")
    with pytest.raises(ConfigurationError, match=r"no wallet 'bob' in .*\(there: alice\).*--wallet-name"):
        load_signer(NETWORK, HotkeyName("bob", "default", tmp_path))


def test_a_missing_hotkey_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    write_hotkey(tmp_path, "alice", "one")
    with pytest.raises(ConfigurationError, match=r"no hotkey 'two' in .*\(there: one\).*--hotkey-name"):
        load_signer(NETWORK, HotkeyName("alice", "two", tmp_path))


def test_an_encrypted_hotkey_without_a_terminal_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"encrypted, and there is no terminal.*BT_WALLET_PASSWORD"):
        load_signer(NETWORK, write_hotkey(tmp_path, "alice", "default", "open sesame"))


def test_an_encrypted_hotkey_opens_with_the_password_in_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write_hotkey(tmp_path, "alice", "default", "open sesame")
    monkeypatch.setenv("BT_WALLET_PASSWORD", "open sesame")
    assert load_signer(NETWORK, name).ss58_address == ALICE
    monkeypatch.setenv("BT_WALLET_PASSWORD", "open barley")
    with pytest.raises(ConfigurationError, match=r"password for the hotkey .* is wrong") as caught:
        load_signer(NETWORK, name)
    assert "open barley" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "junk", json.dumps({"ss58Address": ALICE, "publicKey": "0x" + "00" * 32}), "\udcff\udcfe"]
)
def test_a_file_that_is_no_private_key_is_named(tmp_path: Path, content: str) -> None:
    name = write_hotkey(tmp_path, "alice", "default")
    name.file.write_text(content, errors="surrogateescape")
    with pytest.raises(ConfigurationError, match=r"The hotkey .*alice.* can't be used"):
        load_signer(NETWORK, name)


def test_the_address_of_an_encrypted_hotkey_needs_no_password(tmp_path: Path) -> None:
    name = write_hotkey(tmp_path, "alice", "default", "open sesame")
    name.public_file.write_text(json.dumps({"ss58Address": ALICE}))
    assert hotkey_address(NETWORK, name) == ALICE


def test_flags_come_before_btclis_variables_and_those_before_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_wallet(None, None, None) == HotkeyName()
    assert (chosen_network(None), wallet_is_named(None, None)) == ("finney", False)
    for name, value in {"WALLET": "w", "WALLET_HOTKEY": "h", "WALLET_PATH": "/keys", "NETWORK": "test"}.items():
        monkeypatch.setenv(f"BT_{name}", value)
    assert chosen_wallet(None, None, None) == HotkeyName("w", "h", Path("/keys"))
    assert chosen_wallet("mine", None, None) == HotkeyName("mine", "h", Path("/keys"))
    assert (chosen_network(None), chosen_network("dev"), wallet_is_named(None, None)) == ("test", "dev", True)


def test_a_variable_can_stand_in_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BT_WALLET=from-file\n")
    assert chosen_wallet(None, None, None).wallet == "from-file"

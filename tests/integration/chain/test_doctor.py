"""The doctor's look at a true chain: the subnet, and whether a wallet's hotkey is registered there."""

from kinitro.chain import HotkeyName
from kinitro.doctor.findings import Verdict
from kinitro.doctor.outside import ChainLook
from kinitro.testing.local_node import LocalNode

from .test_commit import write_wallets


async def look(
    node: LocalNode, netuid: int | None, name: HotkeyName, *, validates: bool = False
) -> dict[str, tuple[Verdict, str]]:
    looking = ChainLook(node.url, netuid, name, validates=validates)
    found = await looking.run()
    assert await looking.genesis() == node.genesis
    return {one.subject: (one.verdict, f"{one.text} {one.advice or ''}") for one in found}


async def test_a_registered_hotkey_is_told_from_one_that_is_not(node: LocalNode, tmp_path) -> None:
    wallets = tmp_path / "keys"
    write_wallets(wallets, {"charlie": "//Charlie", "zoe": "//Zoe"})
    found = await look(node, 2, HotkeyName("charlie", "default", wallets))
    assert found["Chain"][0] is Verdict.OK
    assert found["Registration"][0] is Verdict.OK
    assert "on netuid 2" in found["Registration"][1]
    missing = (await look(node, 2, HotkeyName("zoe", "default", wallets)))["Registration"]
    assert missing[0] is Verdict.FAILED
    assert "btcli subnets register --netuid 2" in missing[1]


async def test_a_subnet_that_does_not_exist_and_one_that_was_not_named(node: LocalNode, tmp_path) -> None:
    wallets = tmp_path / "keys"
    write_wallets(wallets, {"charlie": "//Charlie"})
    found = await look(node, 77, HotkeyName("charlie", "default", wallets))
    assert found["Chain"][0] is Verdict.FAILED
    assert "There is no subnet 77" in found["Chain"][1]
    unnamed = await look(node, None, HotkeyName("charlie", "default", wallets))
    assert unnamed["Chain"][0] is Verdict.OK
    assert "--netuid" in unnamed["Registration"][1]


async def test_a_validator_without_a_permit_is_told_so(node: LocalNode, tmp_path) -> None:
    wallets = tmp_path / "keys"
    write_wallets(wallets, {"alice": "//Alice", "bob": "//Bob"})
    alice, bob = (HotkeyName(name, "default", wallets) for name in ("alice", "bob"))
    assert (await look(node, 2, alice, validates=True))["Registration"][0] is Verdict.OK
    verdict, said = (await look(node, 2, bob, validates=True))["Registration"]
    assert verdict is Verdict.FAILED
    assert "no validator permit" in said
    assert (await look(node, 2, bob))["Registration"][0] is Verdict.OK

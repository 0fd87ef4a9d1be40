"""`kinitro miner commit` and `show-commitment`, on a local Bittensor node and on the dev ledger."""

import asyncio
import contextlib
import json
import os
import pty
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from kinitro.chain import DevLedger, dev_signer, open_chain
from kinitro.errors import AmbiguousWrite, ChainUnreachable, NotRegistered
from kinitro.miner.commitments import Patience, commit_policy, read_commitment, read_commitments
from kinitro.testing.local_node import LocalNode, run_node
from kinitro.types import PolicyRef

NETUID = 1
A, B = "a" * 40, "b" * 40
POLICY = PolicyRef("user/policy", A)
QUICK = Patience(poll_s=0.1, lookup_s=6.0)


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def kinitro(tmp_path: Path) -> Callable[..., Awaitable[Answer]]:
    """Runs the command as a user does, in an empty folder, without any of this machine's wallets."""

    async def run(*words: str, **variables: str) -> Answer:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("BT_", "KINITRO_"))}
        home = {"HOME": str(tmp_path), "KINITRO_HOME": str(tmp_path / "kinitro")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "kinitro",
            "miner",
            *words,
            cwd=tmp_path,
            env=clean | home | variables,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Answer(process.returncode, out.decode(), err.decode())

    return run


def key(uri: str):
    from bittensor.sp_core import Keypair

    return Keypair.create_from_uri(uri)


def write_wallets(folder: Path, uris: Mapping[str, str]) -> None:
    import bittensor

    for name, uri in uris.items():
        wallet = bittensor.Wallet(name, "default", path=str(folder))
        wallet.hotkey_file.set_keypair(key(uri), encrypt=False, overwrite=True)


async def test_commit_names_the_policy_on_chain_and_show_reads_it_back(node: LocalNode, kinitro, tmp_path) -> None:
    write_wallets(tmp_path / "keys", {"charlie": "//Charlie"})
    flags = [
        "--network",
        node.url,
        "--netuid",
        "2",
        "--wallet.name",
        "charlie",
        "--wallet-path",
        str(tmp_path / "keys"),
    ]
    done = await kinitro("commit", "--repo", "user/policy", "--revision", A, *flags)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Committed user/policy@{A} for {key('//Charlie').ss58_address} on netuid 2")
    again = await kinitro("commit", "--repo", "user/policy", "--revision", A, *flags)
    assert "Already committed" in again.out
    assert "Nothing was sent" in again.out
    shown = await kinitro("show-commitment", "--json", *flags)
    (found,) = json.loads(shown.out)
    assert (shown.code, found["ref"]) == (0, {"repo": "user/policy", "revision": A})
    replaced = await kinitro("commit", "--repo", "user/policy", "--revision", B, *flags)
    assert f"It replaces user/policy@{A}" in replaced.out


async def test_btclis_variables_name_wallet_and_network_too(node: LocalNode, kinitro, tmp_path) -> None:
    write_wallets(tmp_path / "keys", {"dave": "//Dave"})
    variables = {"BT_WALLET": "dave", "BT_WALLET_PATH": str(tmp_path / "keys"), "BT_NETWORK": node.url}
    done = await kinitro("commit", "--repo", "dave/policy", "--revision", A, "--netuid", "2", **variables)
    assert (done.code, done.err) == (0, "")
    assert key("//Dave").ss58_address in done.out


@pytest.mark.parametrize(
    ("uri", "netuid"), [pytest.param("//Eve", "1", id="hotkey"), pytest.param("//Bob", "77", id="netuid")]
)
async def test_an_unregistered_hotkey_or_netuid_is_one_clear_line(
    node: LocalNode, kinitro, tmp_path, uri: str, netuid: str
) -> None:
    write_wallets(tmp_path / ".bittensor" / "wallets", {"me": uri})
    flags = ["--network", node.url, "--netuid", netuid, "--wallet-name", "me"]
    done = await kinitro("commit", "--repo", "user/policy", "--revision", A, *flags)
    assert done.code == 1
    assert f"There is no subnet {netuid}" in done.err or f"is not registered on netuid {netuid}" in done.err
    assert "Traceback" not in done.err
    assert "--netuid" in done.err


async def test_a_repo_name_that_does_not_fit_is_refused_before_anything_is_sent(kinitro) -> None:
    done = await kinitro("commit", "--repo", "user/" + "p" * 80, "--revision", A, "--network", "ws://127.0.0.1:1")
    assert done.code == 1
    assert "would take 140 bytes; the chain holds 128" in done.err
    assert "at most 73 characters" in done.err


async def test_a_branch_is_refused_with_what_to_give_instead(kinitro) -> None:
    done = await kinitro("commit", "--repo", "user/policy", "--revision", "main", "--network", "dev")
    assert done.code == 1
    assert "40 hex digits, as the repo's history page shows them" in done.err


async def test_a_dry_run_sends_nothing(kinitro) -> None:
    done = await kinitro("commit", "--repo", "user/policy", "--revision", A, "--network", "dev", "--dry-run")
    assert done.code == 0
    assert "Nothing was sent" in done.out
    listed = await kinitro("show-commitment", "--network", "dev")
    assert "no subnet 1" in listed.err


async def test_on_dev_the_hotkey_is_registered_and_the_command_says_so(kinitro) -> None:
    done = await kinitro("commit", "--repo", "user/policy", "--revision", A, "--network", "dev", "--wallet", "me")
    assert done.out.startswith("Registered the hotkey on netuid 1 of the dev ledger: uid 0.\nCommitted user/policy")
    shown = await kinitro("show-commitment", "--network", "dev", "--wallet", "me")
    assert (shown.code, f"user/policy@{A}" in shown.out) == (0, True)


async def test_an_encrypted_hotkey_asks_for_its_password_on_a_terminal(node: LocalNode, tmp_path: Path) -> None:
    import bittensor

    wallet = bittensor.Wallet("me", "default", path=str(tmp_path))
    wallet.hotkey_file.set_keypair(key("//Charlie"), encrypt=True, overwrite=True, password="open sesame")
    words = ["commit", "--repo", "user/policy", "--revision", A, "--dry-run", "--network", node.url]
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kinitro", "miner", *words, "--wallet-name", "me", "--wallet-path", str(tmp_path)),
        env={name: value for name, value in os.environ.items() if not name.startswith("BT_")},
        stdin=theirs,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(theirs)
    assert process.stderr is not None
    async with asyncio.timeout(60):
        asked = await process.stderr.readuntil(b": ")
        assert b"password" in asked
        os.write(ours, b"open sesame\n")
        out, _ = await process.communicate()
    os.close(ours)
    assert key("//Charlie").ss58_address in out.decode()


async def test_without_a_wallet_every_commitment_is_listed_and_a_strangers_text_is_no_terminal_control(
    node: LocalNode, kinitro
) -> None:
    await node.dev("register", NETUID, "//hostile")
    await node.dev("commit", NETUID, "//hostile", ["\x1b[2J\x1b]0;owned\x07[red]" + "é"])
    await node.dev("register", NETUID, "//fine")
    await node.dev("commit", NETUID, "//fine", [f"user/fine:{A}"])
    await node.dev("advance", 1)
    listed = await kinitro("show-commitment", "--network", node.url)
    assert listed.code == 0
    assert f"  user/fine@{A}" in listed.out
    assert "rejected: The commitment can't be read" in listed.out
    assert "\\x1b[2J" in listed.out
    assert "\x1b" not in listed.out


async def test_a_network_that_is_not_there_is_one_clear_line(kinitro, tmp_path) -> None:
    listed = await kinitro("show-commitment", "--network", "ws://127.0.0.1:1")
    assert listed.code == 1
    assert listed.err.startswith("Error: ws://127.0.0.1:1 can't be read")
    assert "Traceback" not in listed.err


async def test_a_write_cut_off_in_the_middle_is_found_and_not_sent_twice(node_folder_or_skip: Path) -> None:
    async with run_node(node_folder_or_skip, block_time_s=1) as cut, open_chain(cut.url) as chain:
        committing = asyncio.create_task(commit_policy(chain, NETUID, POLICY, key("//Dave"), patience=QUICK))
        await until_sent(cut)
        with contextlib.suppress(ConnectionError):
            await cut.dev("drop")
        done = await committing
        assert (done.ref, done.already) == (POLICY, False)
        assert len(await cut.dev("extrinsics")) == 1


class Losing:
    """A ledger whose first writes get lost on the way; after them, optionally, it can't be read either."""

    def __init__(self, ledger: DevLedger, *, writes: int, unreadable: bool = False) -> None:
        self._ledger = ledger
        self._writes = writes
        self._unreadable = unreadable
        self.sent = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._ledger, name)

    async def commit(self, *arguments: object) -> int:
        self.sent += 1
        if self.sent <= self._writes:
            raise AmbiguousWrite("The connection was lost.")
        return await self._ledger.commit(*arguments)

    async def subnet(self, netuid: int) -> object:
        if self._unreadable and self.sent:
            raise ChainUnreachable("No answer.")
        return await self._ledger.subnet(netuid)


@pytest.fixture
async def ledger(tmp_path: Path) -> DevLedger:
    made = DevLedger(tmp_path / "ledger.sqlite", block_s=0.02)
    await made.register(NETUID, dev_signer("w", "h").ss58_address)
    return made


HASTY = Patience(poll_s=0.02, lookup_s=0.2)


async def test_a_write_that_never_landed_is_sent_again(ledger: DevLedger) -> None:
    chain = Losing(ledger, writes=1)
    done = await commit_policy(chain, NETUID, POLICY, dev_signer("w", "h"), patience=HASTY)
    assert (done.ref, chain.sent) == (POLICY, 2)


async def test_a_write_that_is_lost_again_and_again_says_how_to_look_it_up(ledger: DevLedger) -> None:
    with pytest.raises(AmbiguousWrite, match=r"connection was lost.*show-commitment --netuid 1"):
        await commit_policy(Losing(ledger, writes=9), NETUID, POLICY, dev_signer("w", "h"), patience=HASTY)


async def test_a_lost_write_is_not_repeated_while_it_can_not_be_looked_up(ledger: DevLedger) -> None:
    chain = Losing(ledger, writes=9, unreadable=True)
    with pytest.raises(AmbiguousWrite, match="can't be looked up: No answer"):
        await commit_policy(chain, NETUID, POLICY, dev_signer("w", "h"), patience=HASTY)
    assert chain.sent == 1


async def test_the_same_policy_in_other_letters_is_already_committed(ledger: DevLedger) -> None:
    signer = dev_signer("w", "h")
    first = await commit_policy(ledger, NETUID, POLICY, signer, patience=HASTY)
    again = await commit_policy(ledger, NETUID, PolicyRef("User/Policy", A), signer, patience=HASTY)
    assert (again.already, again.block) == (True, first.block)


async def test_what_a_hotkey_committed_is_read_back_or_the_reason_why_it_is_none(ledger: DevLedger) -> None:
    signer = dev_signer("w", "h")
    assert await read_commitment(ledger, NETUID, signer.ss58_address) is None
    await ledger.commit(NETUID, "nonsense", signer)
    (found,) = await read_commitments(ledger, NETUID)
    assert (found.ref, found.text) == (None, "nonsense")
    assert "neither JSON nor user/repo:revision" in found.problem
    with pytest.raises(NotRegistered):
        await read_commitment(ledger, NETUID, dev_signer("w", "other").ss58_address)


async def until_sent(node: LocalNode) -> None:
    async with asyncio.timeout(20):
        while True:
            if (await node.dev("counts")).get("author_submitAndWatchExtrinsic"):
                return
            await asyncio.sleep(0.02)

"""`kinitro miner commit` and `show-commitment`: which policy of yours the chain names."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from kinitro.cli.common import JsonFlag, plain, print_json
from kinitro.cli.wallet_flags import (
    HotkeyNameFlag,
    NetuidFlag,
    NetworkFlag,
    WalletNameFlag,
    WalletPathFlag,
    chosen_network,
    chosen_wallet,
    wallet_is_named,
)

if TYPE_CHECKING:
    from kinitro.miner.commitments import Commit, Commitment
    from kinitro.types import PolicyRef

app = typer.Typer(help="For miners: make, try, upload and commit a policy.", no_args_is_help=True)


@app.command(
    epilog="Example: kinitro miner commit --repo me/policy --revision $(git rev-parse HEAD) --netuid 2 --network test "
    "--wallet-name me --hotkey-name default"
)
def commit(
    repo: Annotated[str, typer.Option("--repo", help="The HuggingFace repo, user/name.")],
    revision: Annotated[str, typer.Option("--revision", help="The commit to evaluate: all 40 hex digits.")],
    netuid: NetuidFlag = 1,
    network: NetworkFlag = None,
    wallet_name: WalletNameFlag = None,
    hotkey_name: HotkeyNameFlag = None,
    wallet_path: WalletPathFlag = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written; send nothing.")] = False,
) -> None:
    """Name your policy on chain: this repo at this revision is what your hotkey is evaluated by.

    A new revision starts at the back of the line. An encrypted hotkey asks for its password (or BT_WALLET_PASSWORD).
    """
    from kinitro.chain import format_commitment, hotkey_address, load_signer, open_chain
    from kinitro.miner.commitments import commit_policy
    from kinitro.types import PolicyRef

    ref = PolicyRef(repo, revision)
    text = format_commitment(ref)
    chosen, name = chosen_network(network), chosen_wallet(wallet_name, hotkey_name, wallet_path)
    if dry_run:
        typer.echo(f"Would commit {text} ({len(text)} of 128 bytes)")
        typer.echo(f"as {hotkey_address(chosen, name)} on netuid {netuid} of {chosen}. Nothing was sent.")
        return
    signer = load_signer(chosen, name)

    async def send() -> "Commit":
        async with open_chain(chosen) as chain:
            return await commit_policy(chain, netuid, ref, signer)

    _say(asyncio.run(send()), netuid, chosen)


@app.command(
    "show-commitment", epilog="Example: kinitro miner show-commitment --netuid 2 --network test --wallet-name me"
)
def show_commitment(
    netuid: NetuidFlag = 1,
    network: NetworkFlag = None,
    wallet_name: WalletNameFlag = None,
    hotkey_name: HotkeyNameFlag = None,
    wallet_path: WalletPathFlag = None,
    json: JsonFlag = False,
) -> None:
    """Read commitments back as the scheduler reads them: one wallet's, or without a wallet all of the subnet.

    Exit code 1 when your own commitment is missing or can't be read.
    """
    from kinitro.chain import hotkey_address, open_chain
    from kinitro.miner.commitments import read_commitment, read_commitments

    chosen = chosen_network(network)
    hotkey = None
    if wallet_is_named(wallet_name, hotkey_name):
        hotkey = hotkey_address(chosen, chosen_wallet(wallet_name, hotkey_name, wallet_path))

    async def read() -> "list[Commitment]":
        async with open_chain(chosen) as chain:
            if hotkey is None:
                return await read_commitments(chain, netuid)
            own = await read_commitment(chain, netuid, hotkey)
            return [] if own is None else [own]

    found = asyncio.run(read())
    if json:
        print_json([plain(commitment) for commitment in found])
    else:
        _list(found, netuid, chosen, hotkey)
    if hotkey is not None and (not found or found[0].problem):
        raise typer.Exit(1)


def _say(done: "Commit", netuid: int, network: str) -> None:
    if done.registered_uid is not None:
        typer.echo(f"Registered the hotkey on netuid {netuid} of the dev ledger: uid {done.registered_uid}.")
    where = f"netuid {netuid} of {network}, block {done.block}"
    if done.already:
        typer.echo(f"Already committed: {_shown(done.ref)} for {done.hotkey} on {where}. Nothing was sent.")
        return
    typer.echo(f"Committed {_shown(done.ref)} for {done.hotkey} on {where}.")
    if done.replaced is not None:
        typer.echo(f"It replaces {_shown(done.replaced)}; a revision that is new starts at the back of the line.")


def _list(found: "list[Commitment]", netuid: int, network: str, hotkey: str | None) -> None:
    if not found:
        who = f"Hotkey {hotkey} has committed nothing" if hotkey else "Nobody has committed anything"
        typer.echo(f"{who} on netuid {netuid} of {network}.")
        typer.echo("  To commit: kinitro miner commit --repo USER/NAME --revision REVISION", err=True)
        return
    for each in found:
        typer.echo(f"uid {each.uid}  {each.hotkey}  block {each.block}")
        # A stranger's text may hold anything, a terminal's control codes included.
        typer.echo(f"  {_shown(each.ref)}" if each.ref else f"  rejected: {each.problem} It says {each.text!a}")
    readable = sum(each.ref is not None for each in found)
    typer.echo(f"{readable} of {len(found)} can be read.", err=True)


def _shown(ref: "PolicyRef") -> str:
    return f"{ref.repo}@{ref.revision}"

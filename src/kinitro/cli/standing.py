"""`kinitro miner status`: where a submission stands, and why."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from kinitro.cli.common import ApiUrl, JsonFlag, chosen_api, counted, plain, print_json
from kinitro.cli.wallet_flags import (
    HotkeyNameFlag,
    NetuidFlag,
    NetworkFlag,
    WalletNameFlag,
    WalletPathFlag,
    chosen_network,
    chosen_wallet,
)

if TYPE_CHECKING:
    from kinitro.miner.standing import Standing
    from kinitro.schemas import LastResultOut, MinerStatus, QueueOut

_LABEL = 8
Line = tuple[str, str]


def register(app: typer.Typer) -> None:
    """Adds the command to the `miner` group."""
    app.command(
        epilog="Example: kinitro miner status --netuid 2 --network test --wallet-name me --api-url https://api.example"
    )(status)


def status(
    netuid: NetuidFlag = 1,
    network: NetworkFlag = None,
    wallet_name: WalletNameFlag = None,
    hotkey_name: HotkeyNameFlag = None,
    wallet_path: WalletPathFlag = None,
    hotkey: Annotated[
        str | None, typer.Option("--hotkey", help="An address instead of a wallet, anybody's.", show_default=False)
    ] = None,
    api_url: ApiUrl = None,
    json: JsonFlag = False,
) -> None:
    """Say where a submission stands: what is committed, where it is in the queue, its last result, and why.

    Exit code 1 when it will not be evaluated as it is: nothing committed, not readable, rejected, a copy.
    """
    from kinitro.chain import hotkey_address, open_chain
    from kinitro.client import KinitroClient
    from kinitro.miner.standing import read_standing

    chosen, url = chosen_network(network), chosen_api(api_url)
    address = hotkey or hotkey_address(chosen, chosen_wallet(wallet_name, hotkey_name, wallet_path))

    async def read() -> "Standing":
        async with open_chain(chosen) as chain, KinitroClient(url) as client:
            return await read_standing(chain, client, netuid, address)

    found = asyncio.run(read())
    if json:
        print_json(plain(found))
    else:
        _print(_lines(found, f"netuid {netuid} of {chosen}", url))
    if not found.takes_part:
        raise typer.Exit(1)


def _print(lines: Iterable[Line]) -> None:
    from kinitro.logs import mask, printable

    before = ""
    for label, text in lines:
        # Reasons hold what strangers wrote.
        typer.echo(f"{label if label != before else '':<{_LABEL}}  {printable(mask(text))}")
        before = label


def _lines(found: "Standing", where: str, url: str) -> Iterator[Line]:
    yield "Hotkey", found.hotkey
    if found.chain_problem is not None:
        yield "Chain", found.chain_problem
    elif found.committed is None:
        yield "Chain", f"registered on {where}; nothing is committed"
    else:
        it = found.committed
        yield "Chain", f"uid {it.uid} on {where}, committed at block {it.block}"
        yield "Chain", f"{it.ref.repo}@{it.ref.revision}" if it.ref else f"rejected: {it.problem} It says {it.text!a}"
    if found.status is None:
        yield "API", found.api_problem or f"{url} does not know this hotkey"
    else:
        yield from _status_lines(found.status)
    for text in found.advice:
        yield "Next", text


def _status_lines(status: "MinerStatus") -> Iterator[Line]:
    yield "State", f"{status.state.value}{f': {status.reason}' if status.reason else ''}"
    if status.repo is not None:
        yield "State", f"with {status.repo}@{status.revision}"
    if status.first_seen_block is not None:
        place = f"place {status.place}, " if status.place is not None else ""
        yield "Line", f"{place}first seen at block {status.first_seen_block}"
    if status.queue is not None:
        yield from _queue_lines(status.queue)
    for text in status.waiting_for:
        yield "Waits", text
    if status.last_result is not None:
        yield from _result_lines(status.last_result)


def _queue_lines(queue: "QueueOut") -> Iterator[Line]:
    yield "Queue", f"cycle {queue.cycle_id} is {queue.status.value}"
    if queue.tasks_total:
        yield "Queue", f"{queue.tasks_done} of {queue.tasks_total} episodes are done, {queue.tasks_running} are leased"
        yield "Queue", f"{queue.tasks_left} are left, after {queue.tasks_ahead} of {queue.miners_ahead} other miners"


def _result_lines(last: "LastResultOut") -> Iterator[Line]:
    yield "Last", f"cycle {last.cycle_id}, {last.completed_at:%Y-%m-%d %H:%M} UTC"
    share = "that cycle published no weights" if last.weight is None else f"{last.weight:.2%} of the weights"
    yield "Last", f"{counted(last.points, 'point')} ({', '.join(last.prizes) or 'no prize'}); {share}"
    for env_id, rate in last.success_rates.items():
        yield "Last", f"{rate:7.1%}  {env_id}"
    if last.episodes_failed:
        yield "Last", f"{last.episodes_failed} episodes could not be evaluated, which was not the policy's fault"
    for error, episodes in last.policy_errors.items():
        yield "Last", f"{episodes} x {error}"

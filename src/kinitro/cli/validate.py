"""`kinitro validate`: set on chain what a backend publishes and its export proves."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from kinitro.cli.common import LogFormat, LogFormatFlag, LogLevel, LogLevelFlag, configure, run_service
from kinitro.cli.wallet_flags import (
    HotkeyNameFlag,
    NetworkFlag,
    WalletNameFlag,
    WalletPathFlag,
    chosen_network,
    chosen_wallet,
)

if TYPE_CHECKING:
    from kinitro.chain import Signer
    from kinitro.settings import ValidatorSettings
    from kinitro.validator import Standing


def register(app: typer.Typer) -> None:
    """Adds the command to the command tree."""
    app.command(
        epilog="Example: kinitro validate --backend-url https://backend.example --network finney --netuid 2 "
        "--wallet-name me --hotkey-name default"
    )(validate)


def validate(
    backend_url: Annotated[
        str | None,
        typer.Option(
            "--backend-url", help="The Kinitro API whose weights to set.", show_default="http://localhost:8000"
        ),
    ] = None,
    network: NetworkFlag = None,
    netuid: Annotated[int | None, typer.Option("--netuid", help="The subnet.", show_default="1")] = None,
    wallet_name: WalletNameFlag = None,
    hotkey_name: HotkeyNameFlag = None,
    wallet_path: WalletPathFlag = None,
    once: Annotated[
        bool,
        typer.Option("--once", help="One turn, for cron. Exit code 0: set, or set already and fresh; 1 otherwise."),
    ] = False,
    no_recompute: Annotated[
        bool | None,
        typer.Option("--no-recompute", help="Trust the backend: set its weights without recomputing them."),
    ] = None,
    log_level: LogLevelFlag = LogLevel.INFO,
    log_format: LogFormatFlag = LogFormat.CONSOLE,
) -> None:
    """Set a backend's weights on chain, after recomputing them from the episodes it publishes.

    Weights that don't follow from their export, have expired or belong to another subnet are never set. An encrypted
    hotkey asks for its password (or BT_WALLET_PASSWORD).
    """
    from kinitro.chain import load_signer
    from kinitro.settings import ValidatorSettings
    from kinitro.validator import serve, set_once

    configure(log_level, log_format)
    settings = with_network(
        ValidatorSettings.load(
            backend_url=backend_url,
            network=network,
            netuid=netuid,
            wallet_name=wallet_name,
            hotkey_name=hotkey_name,
            wallet_path=wallet_path,
            recompute=False if no_recompute else None,
        )
    )
    wallet = chosen_wallet(settings.wallet_name, settings.hotkey_name, settings.wallet_path)
    signer = load_signer(settings.network, wallet)
    # Cron's turn joins only when there is something to set.
    if settings.network == "dev" and (not once or asyncio.run(_has_weights(settings.backend_url))):
        asyncio.run(_join_dev_subnet(settings.netuid, signer))
    if once:
        _say(asyncio.run(set_once(settings, signer)), settings.netuid)
    else:
        run_service(lambda: serve(settings, signer))


def with_network(settings: "ValidatorSettings") -> "ValidatorSettings":
    """The variable that btcli reads counts where neither the flag nor our own variable was given."""
    given = settings.network if "network" in settings.model_fields_set else None
    return settings.model_copy(update={"network": chosen_network(given)})


async def _has_weights(backend_url: str) -> bool:
    from kinitro.client import KinitroClient
    from kinitro.errors import ApiError, ApiUnreachable

    async with KinitroClient(backend_url) as client:
        try:
            await client.weights()
        except (ApiError, ApiUnreachable):  # what is wrong, the turn says
            return False
    return True


async def _join_dev_subnet(netuid: int, signer: "Signer") -> None:
    """Nobody sells registrations on the dev ledger. A subnet that is not there stays an error."""
    from kinitro.chain import DevLedger, open_chain

    async with open_chain("dev") as chain:
        subnet = await chain.subnet(netuid)
        if isinstance(chain, DevLedger) and all(each.hotkey != signer.ss58_address for each in subnet.neurons):
            uid = await chain.register(netuid, signer.ss58_address)
            typer.echo(f"Registered the hotkey on netuid {netuid} of the dev ledger: uid {uid}.", err=True)


def _say(standing: "Standing", netuid: int) -> None:
    from kinitro.validator import Deed

    attempt = standing.attempt
    total = sum(attempt.weights.values)
    shares = ", ".join(
        f"uid {uid} {value / total:.1%}"
        for uid, value in zip(attempt.weights.uids, attempt.weights.values, strict=True)
    )
    how = f" ({attempt.mode.value})" if attempt.mode else ""
    verb = "Set" if standing.deed is Deed.SET else "Already set"
    typer.echo(f"{verb}: cycle {attempt.cycle_id}'s weights on netuid {netuid}, block {attempt.block}{how}: {shares}")

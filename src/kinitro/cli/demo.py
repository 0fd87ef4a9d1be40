"""`kinitro demo`."""

from pathlib import Path
from typing import Annotated

import typer

from kinitro.cli.common import run_service


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: kinitro demo --episodes 20")(demo)


def demo(
    episodes: Annotated[
        int, typer.Option("--episodes", min=1, max=1000, help="Episodes a miner and environment.")
    ] = 10,
    setup_only: Annotated[
        bool,
        typer.Option("--setup-only", help="Only enter the bundled miners on your dev ledger."),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the services up afterwards, until Ctrl-C.")] = False,
    home: Annotated[
        Path | None, typer.Option("--home", help="Work in this new directory, and leave the data and an export there.")
    ] = None,
) -> None:
    """See the whole loop on this machine: five bundled policies evaluated in MuJoCo and ranked.

    Starts a database, the API, the scheduler and an executor as real processes in a directory of their own, on free
    ports, and removes everything at the end (with --home: all but the data).
    """
    from rich.console import Console

    from kinitro.demo import DemoOptions, run_demo

    if setup_only:
        _set_up()
        return
    options = DemoOptions(episodes=episodes, keep=keep, home=home)
    run_service(lambda: run_demo(options, Console(highlight=False)), has_own_end=True)


def _set_up() -> None:
    import asyncio

    from kinitro.demo import ENVIRONMENTS, NETUID, enter_miners
    from kinitro.settings import home_directory

    asyncio.run(enter_miners(home_directory()))
    typer.echo(f"The bundled miners are on the dev ledger in {home_directory()}. Next, each in its own terminal:")
    typer.echo("  kinitro db init && kinitro api")
    chosen = ",".join(ENVIRONMENTS)
    typer.echo(f"  kinitro scheduler --network dev --netuid {NETUID} --episodes-per-env 10 --environments {chosen}")
    typer.echo("  kinitro executor --eval-mode process")

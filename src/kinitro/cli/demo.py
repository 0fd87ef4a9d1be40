"""`kinitro demo`."""

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
    keep: Annotated[bool, typer.Option("--keep", help="Leave the services up afterwards, until Ctrl-C.")] = False,
) -> None:
    """See the whole loop on this machine: five bundled policies evaluated in MuJoCo and ranked.

    Starts a database, the API, the scheduler and an executor as real processes in a directory of their own, on free
    ports, and removes everything at the end.
    """
    from rich.console import Console

    from kinitro.demo import DemoOptions, run_demo

    run_service(lambda: run_demo(DemoOptions(episodes=episodes, keep=keep), Console(highlight=False)))

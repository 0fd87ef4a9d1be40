"""`kinitro executors`: who runs tasks, who does not get any more, and lifting that."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from kinitro.cli.common import DatabaseUrl, JsonFlag, chosen_database, plain, print_json
from kinitro.errors import ConfigurationError

if TYPE_CHECKING:
    from kinitro.storage import KnownExecutor

app = typer.Typer(help="Executors: who is there, who is quarantined; lift a quarantine.", no_args_is_help=True)


@app.command("list", epilog="Example: kinitro executors list --json")
def list_(database_url: DatabaseUrl = None, json: JsonFlag = False) -> None:
    """Show the executors heard of within a day, and those that get no tasks, or fewer, with the reason."""
    found = asyncio.run(_known(chosen_database(database_url)))
    if json:
        print_json([plain(executor) for executor in found])
        return
    from kinitro.cli.tables import executors_table

    executors_table(found)


@app.command(epilog="Example: kinitro executors pardon gpu-box-3")
def pardon(
    executor_id: Annotated[str, typer.Argument(help="The executor, as `kinitro executors list` names it.")],
    database_url: DatabaseUrl = None,
) -> None:
    """Let a quarantined executor have tasks again. What it was contradicted in before counts no more."""
    lifted = asyncio.run(_pardon(chosen_database(database_url), executor_id))
    if not lifted:
        raise ConfigurationError(
            f"The executor {executor_id} is not quarantined.", advice="See who is: `kinitro executors list`."
        )
    typer.echo(f"{executor_id} gets tasks again. If it has ended, start it.")


async def _known(url: str | None) -> "list[KnownExecutor]":
    from kinitro.storage import known_executors, open_database

    async with open_database(url) as database, database.connect() as connection:
        return await known_executors(connection)


async def _pardon(url: str | None, executor_id: str) -> int:
    from kinitro.storage import open_database
    from kinitro.storage import pardon as lift

    async with open_database(url) as database, database.begin() as connection:
        return await lift(connection, executor_id)

"""`kinitro db`: create, migrate, look at, wipe and remove the database."""

import asyncio
from typing import Annotated

import typer

from kinitro.cli.common import DatabaseUrl, JsonFlag, chosen_database, counted, plain, print_json

app = typer.Typer(help="The database: create, migrate, look at, wipe, remove.", no_args_is_help=True)

Force = Annotated[bool, typer.Option("--force", help="Do it without asking.")]


def _confirm(force: bool, what: str) -> None:
    if not force and not typer.confirm(f"{what} Everything in it is lost. Go on?"):
        raise typer.Abort


def _command(name: str, url: str | None) -> str:
    from kinitro.storage.database import db_command, parse_url

    return db_command(name, None if url is None else parse_url(url))


@app.command(epilog="Example: kinitro db create --database-url postgresql://me:pw@localhost/kinitro")
def create(database_url: DatabaseUrl = None) -> None:
    """Create the database on its server. It has no tables until `kinitro db init`."""
    from kinitro.storage import admin

    url = chosen_database(database_url)
    made = asyncio.run(admin.create(url))
    typer.echo(f"{'Created' if made else 'It is there already'}. Next: {_command('init', url)}")


@app.command(epilog="Example: kinitro db init --database-url postgresql://me:pw@localhost/kinitro")
def init(database_url: DatabaseUrl = None) -> None:
    """Create the tables, or bring them up to this version. Safe to repeat."""
    from kinitro.storage import admin

    asyncio.run(admin.init(chosen_database(database_url)))
    typer.echo("The database is ready.")


@app.command(epilog="Example: kinitro db upgrade --database-url postgresql://me:pw@localhost/kinitro")
def upgrade(database_url: DatabaseUrl = None) -> None:
    """Bring an older schema up to this version, keeping everything in it."""
    from kinitro.storage import admin

    asyncio.run(admin.upgrade(chosen_database(database_url)))
    typer.echo("The schema is up to date.")


@app.command(epilog="Example: kinitro db reset --database-url postgresql://me:pw@localhost/kinitro --force")
def reset(database_url: DatabaseUrl = None, force: Force = False) -> None:
    """Wipe the database and create its tables anew. Works on an empty one too."""
    from kinitro.storage import admin

    _confirm(force, "This wipes the database.")
    asyncio.run(admin.reset(chosen_database(database_url)))
    typer.echo("The database is empty and ready.")


@app.command(epilog="Example: kinitro db drop --database-url postgresql://me:pw@localhost/kinitro --force")
def drop(database_url: DatabaseUrl = None, force: Force = False) -> None:
    """Remove the database from its server."""
    from kinitro.storage import admin

    _confirm(force, "This removes the database.")
    removed = asyncio.run(admin.drop(chosen_database(database_url)))
    typer.echo("Removed." if removed else "There was none.")


@app.command(epilog="Example: kinitro db status --json")
def status(database_url: DatabaseUrl = None, json: JsonFlag = False) -> None:
    """Show the schema's version, row counts, the current and last cycle and the latest weights."""
    from kinitro.storage import admin

    url = chosen_database(database_url)
    found = asyncio.run(admin.status(url))
    if json:
        print_json(plain(found))
        return
    from kinitro.cli.tables import database_table

    database_table(found, _command("init", url))


@app.command("rebuild-evidence", epilog="Example: kinitro db rebuild-evidence")
def rebuild(database_url: DatabaseUrl = None) -> None:
    """Make the evidence of completed cycles anew from their verdicts, and say whether it had been right."""
    from kinitro.scheduler import rebuild_evidence

    report = asyncio.run(rebuild_evidence(chosen_database(database_url)))
    read = f"{counted(report.cycles, 'completed cycle')}, {counted(report.rows, 'row')}"
    typer.echo(f"{read}; {report.corrected} had been wrong or missing.")

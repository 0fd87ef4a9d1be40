"""The command tree, and the one place where an error becomes a line for a person and an exit code."""

from typing import Annotated

import typer

from kinitro.cli import (
    database,
    demo,
    doctor,
    environments,
    executors,
    miner,
    policy,
    replay,
    results,
    services,
    standing,
    validate,
)
from kinitro.cli.file_trouble import file_trouble
from kinitro.errors import KinitroError

app = typer.Typer(
    name="kinitro",
    help="Fair, trusted and fast evaluation of robot policies that strangers submit.",
    epilog="Start here: kinitro demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from kinitro import __version__

        typer.echo(f"kinitro {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


demo.register(app)
app.add_typer(database.app, name="db")
services.register(app)
validate.register(app)
app.add_typer(executors.app, name="executors")
app.add_typer(environments.app, name="env")
policy.register(miner.app)
standing.register(miner.app)
app.add_typer(miner.app, name="miner")
results.register(app)
doctor.register(app)
replay.register(app)


def main() -> int:
    """Runs the command line and returns the exit code: 0, 1 for an error, 2 for wrong usage."""
    try:
        app()
    except SystemExit as ended:  # typer's own: done, wrong usage, or a question answered with no
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KinitroError as error:
        return _fail(error.message, error.advice, error)
    except Exception as error:  # noqa: BLE001 - outermost turn: a bug becomes one line too, its traceback on request
        if isinstance(error, OSError) and (told := file_trouble(error)):
            return _fail(*told, error)
        return _fail(
            f"An internal error: {type(error).__name__}: {error}",
            "This is a bug. Run it again with KINITRO_DEBUG=1 and report what it prints.",
            error,
        )
    return 0


def _fail(message: str, advice: str | None, error: BaseException) -> int:
    from kinitro.cli.common import debugging
    from kinitro.logs import mask

    if debugging():
        import traceback

        typer.echo(mask("".join(traceback.format_exception(error))), err=True)
    typer.echo(f"Error: {mask(message)}", err=True)
    if advice:
        typer.echo(f"  {mask(advice)}", err=True)
    return 1

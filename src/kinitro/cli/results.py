"""`kinitro export`, `score`, `explain`, `compare`: a cycle as a file, and what follows from it."""

import asyncio
import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinitro.cli.common import ApiUrl, JsonFlag, chosen_api, plain, print_json
from kinitro.errors import ConfigurationError
from kinitro.types import CycleStatus

if TYPE_CHECKING:
    from kinitro.schemas import CycleExport


ExportFile = Annotated[
    Path | None,
    typer.Argument(help="An exported cycle. Without it: the API's last completed cycle.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Adds the commands to the command tree."""
    app.command(epilog="Example: kinitro export 12 --output cycle-12.json")(export)
    app.command(epilog="Example: kinitro score cycle-12.json --json")(score)
    app.command(epilog="Example: kinitro explain --miner 3 cycle-12.json")(explain)
    app.command(epilog="Example: kinitro compare 3 2 cycle-12.json")(compare)


def export(
    cycle_id: Annotated[int, typer.Argument(help="The cycle; it must be closed.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of stdout.")] = None,
    api_url: ApiUrl = None,
) -> None:
    """Download a closed cycle as a file: seeds, outcomes and everything its weights follow from."""
    from kinitro.client import KinitroClient

    async def download() -> "CycleExport":
        async with KinitroClient(chosen_api(api_url)) as client:
            return await client.export(cycle_id)

    text = asyncio.run(download()).model_dump_json(indent=1)
    if output is None:
        typer.echo(text)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise ConfigurationError(f"{output} can't be written: {error.strerror}.") from None
    typer.echo(f"Wrote {output}. Next: kinitro score {output}", err=True)


def score(
    file: Annotated[Path, typer.Argument(help="An exported cycle (kinitro export).")],
    json: JsonFlag = False,
) -> None:
    """Recompute a cycle's scores and weights from its export, offline, and check that it fits together.

    The outcomes of episodes are taken as the file reports them: `kinitro replay --export FILE` runs them again.
    Exit code 1 when a check fails: the file is then not what an honest scheduler wrote.
    """
    from kinitro.scoring import score_cycle
    from kinitro.scoring.check import all_passed, check_export, render_checks

    exported = read_export(file)
    result = score_cycle(exported)
    checks = check_export(exported)
    if json:
        print_json(result.document())
    else:
        from kinitro.cli.tables import score_table

        score_table(result)
    typer.echo(render_checks(checks), err=True)
    typer.echo(f"Outcomes are taken as reported; to run them again: kinitro replay --all --export {file}", err=True)
    if exported.status is not CycleStatus.COMPLETED:
        typer.echo(f"Note: this cycle is {exported.status.value}, so it published no weights.", err=True)
    if not all_passed(checks):
        raise typer.Exit(1)


def explain(
    miner: Annotated[int, typer.Option("--miner", help="The miner's uid.")],
    file: ExportFile = None,
    api_url: ApiUrl = None,
    json: JsonFlag = False,
) -> None:
    """Say why a miner earns what it earns: its rates, each prize's holder, and how much evidence is missing."""
    from kinitro.scoring.explain import explain_miner, render_explanation

    explanation = explain_miner(_export_of(file, api_url), miner)
    if json:
        print_json(plain(explanation))
    else:
        typer.echo(render_explanation(explanation))


def compare(
    first: Annotated[int, typer.Argument(metavar="A", help="A miner's uid.")],
    second: Annotated[int, typer.Argument(metavar="B", help="Another's.")],
    file: ExportFile = None,
    api_url: ApiUrl = None,
    json: JsonFlag = False,
) -> None:
    """Say whether miner A is really better than B, by evidence that may be looked at after every cycle.

    With --json, `verdict` is better, worse or undecided. Exit code 0 whichever it is.
    """
    from kinitro.scoring.compare import compare_miners, render_comparison

    comparison = compare_miners(_export_of(file, api_url), first, second)
    if json:
        print_json(plain(comparison) | {"verdict": comparison.overall.verdict.value})
    else:
        typer.echo(render_comparison(comparison))


def _export_of(file: Path | None, api_url: str | None) -> "CycleExport":
    """The file's cycle, else the last completed one of the API."""
    if file is not None:
        return read_export(file)
    from kinitro.client import KinitroClient

    async def download() -> "CycleExport":
        async with KinitroClient(chosen_api(api_url)) as client:
            last = (await client.status()).last_completed_cycle
            if last is None:
                raise ConfigurationError(
                    "No cycle has been completed yet.",
                    advice="See how far it is: GET /v1/tasks/stats, or `kinitro db status`.",
                )
            return await client.export(last.id)

    return asyncio.run(download())


def read_export(file: Path) -> "CycleExport":
    """An export file, checked for shape. `ConfigurationError` says what is wrong with it."""
    from pydantic import ValidationError

    from kinitro.schemas import CycleExport

    try:
        return CycleExport.model_validate(jsonlib.loads(file.read_bytes()))
    except OSError as error:
        raise ConfigurationError(
            f"{file} can't be read: {error.strerror}.", advice="Make one with `kinitro export CYCLE_ID -o FILE`."
        ) from None
    except (ValueError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        where = (
            ": ".join([*(".".join(map(str, first["loc"])),) * bool(first["loc"]), first["msg"]])
            if first
            else "it is not JSON"
        )
        raise ConfigurationError(
            f"{file} is not an exported cycle: {where}.", advice="Make one with `kinitro export CYCLE_ID -o FILE`."
        ) from None

"""`kinitro export`, `score`: a cycle as a file, and what it comes to."""

import asyncio
import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinitro.cli.common import DEFAULT_API_URL, ApiUrl, JsonFlag, print_json
from kinitro.errors import ConfigurationError

if TYPE_CHECKING:
    from kinitro.schemas import CycleExport


def register(app: typer.Typer) -> None:
    """Adds the commands to the command tree."""
    app.command(epilog="Example: kinitro export 12 --output cycle-12.json")(export)
    app.command(epilog="Example: kinitro score cycle-12.json --json")(score)


def export(
    cycle_id: Annotated[int, typer.Argument(help="The cycle; it must be closed.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of stdout.")] = None,
    api_url: ApiUrl = None,
) -> None:
    """Download a closed cycle as a file: seeds, outcomes and everything its weights follow from."""
    from kinitro.client import KinitroClient

    async def download() -> "CycleExport":
        async with KinitroClient(api_url or DEFAULT_API_URL) as client:
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
    """Recompute a cycle's scores and weights from its export, offline."""
    from kinitro.scoring import score_cycle

    result = score_cycle(read_export(file))
    if json:
        print_json(result.document())
        return
    from kinitro.cli.tables import score_table

    score_table(result)


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
        where = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}" if first else "it is not JSON"
        raise ConfigurationError(
            f"{file} is not an exported cycle: {where}.", advice="Make one with `kinitro export CYCLE_ID -o FILE`."
        ) from None

"""`kinitro env`: the catalogue, and a short local run with a picture."""

from dataclasses import asdict

import typer

from kinitro.cli.common import JsonFlag, print_json

app = typer.Typer(help="Environments: what there is, and a short run to see that it works.", no_args_is_help=True)


@app.command("list", epilog="Example: kinitro env list --json")
def list_environments(json: JsonFlag = False) -> None:
    """List every environment, its channels, cameras and whether a policy must see."""
    from kinitro.environments import catalogue

    specs = catalogue()
    if json:
        print_json([asdict(spec) for spec in specs])
        return
    from kinitro.cli.tables import environments_table

    environments_table(specs)

"""`kinitro miner init`, `serve`, `check` and `deploy`: from an empty folder to a policy that is evaluated."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class TemplateName(StrEnum):
    """What `init` starts from."""

    MINIMAL = "minimal"
    LEROBOT = "lerobot"


def register(app: typer.Typer) -> None:
    """Adds the commands to the `miner` group."""
    app.command(epilog="Example: kinitro miner init my-policy")(init)
    app.command(epilog="Example: kinitro miner serve my-policy --port 9000")(serve)


def init(
    path: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    template: Annotated[
        TemplateName, typer.Option("--template", help="minimal: one small class; lerobot: a trained LeRobot policy.")
    ] = TemplateName.MINIMAL,
) -> None:
    """Write a complete policy folder that works as it is."""
    from kinitro.miner.folder import FolderTemplate, create_folder

    names = create_folder(path, FolderTemplate(template.value))
    typer.echo(f"Made {path}: {', '.join(names)}")
    typer.echo("Next:")
    if template is TemplateName.LEROBOT:
        typer.echo(f"  cp .../pretrained_model/* {path}     your trained policy")
    typer.echo(f"  edit {path / 'policy.py'}")
    typer.echo(f"  kinitro miner check {path}      try it, in real environments")
    typer.echo(f"  kinitro miner deploy --repo USER/NAME --path {path} --netuid NETUID --network NETWORK")


def serve(
    path: Annotated[Path, typer.Argument(help="The policy folder.", show_default=False)] = Path(),
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.")] = 8000,
) -> None:
    """Run a policy as the evaluator runs it, until Ctrl-C. Nothing isolates it: serve only what you trust."""
    from kinitro.miner.serve import serve_folder

    serve_folder(path, host, port)

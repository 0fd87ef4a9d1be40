"""`kinitro env`: the catalogue, a short local run with a picture, and the images of Docker mode."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kinitro.cli.common import JsonFlag, plain, print_json
from kinitro.cli.file_trouble import check_output
from kinitro.errors import ConfigurationError

app = typer.Typer(
    help="Environments: what there is, a short run to see that it works, and their images.", no_args_is_help=True
)


@app.command("list", epilog="Example: kinitro env list --json")
def list_environments(json: JsonFlag = False) -> None:
    """List every environment, its channels, cameras and whether a policy must see."""
    from kinitro.environments import catalogue

    specs = catalogue()
    if json:
        print_json([plain(spec) for spec in specs])
        return
    from kinitro.cli.tables import environments_table

    environments_table(specs)


class Actor(StrEnum):
    """Who acts."""

    EXPERT = "expert"
    RANDOM = "random"


@app.command("test", epilog="Example: kinitro env test metaworld/pick-place-v3 --picture pick-place.gif")
def run_test(
    env_id: Annotated[str, typer.Argument(help="An environment of `kinitro env list`.")],
    episodes: Annotated[int, typer.Option("--episodes", min=1, max=1000, help="How many to run.")] = 3,
    actor: Annotated[
        Actor, typer.Option("--actor", help="The task's scripted expert, who sees everything, or random actions.")
    ] = Actor.EXPERT,
    max_timesteps: Annotated[int, typer.Option("--max-timesteps", min=1, help="Steps an episode has.")] = 500,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Where to write the animation.", show_default="ENV.gif here")
    ] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Draw camera images and the animation.")] = True,
    unity: Annotated[
        Path | None, typer.Option("--unity", help="procthor/v0: check AI2-THOR's Unity build at this path, once.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Run a few episodes on this machine: success, timings, and an animated picture of the first one."""
    from kinitro.environments import EnvironmentOptions, find
    from kinitro.environments import preview as previews

    spec = find(env_id)
    if unity is not None:
        if spec.family != "procthor":
            raise typer.BadParameter(f"{env_id} needs no Unity build.", param_hint="--unity")
        _check_unity(unity, json=json)
        return
    file = (picture or Path(f"{env_id.replace('/', '-')}.gif")) if images else None
    if file is not None:
        check_output("--picture", file, ".gif")
    found = previews.preview(
        spec,
        EnvironmentOptions(images=images),
        actor=previews.Actor(actor.value),
        episodes=episodes,
        max_steps=max_timesteps,
        picture=file,
    )
    if json:
        print_json(plain(found))
        return
    from kinitro.cli.tables import preview_table

    preview_table(found)


def _check_unity(path: Path, *, json: bool) -> None:
    """Runs the checklist. Ends with an error unless every line passed: what was skipped has not been shown."""
    from kinitro.environments.procthor.checklist import Verdict, run_checklist
    from kinitro.environments.procthor.launch import unity_launch

    checks = []
    for check in run_checklist(unity_launch(path)):
        checks.append(check)
        if not json:
            typer.echo(f"{check.verdict.upper():8} {check.name}: {check.detail}")
    if json:
        print_json([plain(check) for check in checks])
    missing = sum(check.verdict is not Verdict.PASSED for check in checks)
    if missing:
        raise ConfigurationError(
            f"{missing} of {len(checks)} checks did not pass: ProcTHOR is not fit to be scored on this machine.",
            advice="docs/procthor.md says what each check shows.",
        )
    if not json:
        typer.echo(f"All {len(checks)} checks passed.")


class Image(StrEnum):
    """What can be built."""

    METAWORLD = "metaworld"
    PROCTHOR = "procthor"
    MINER = "miner"


@app.command("build", epilog="Example: kinitro env build metaworld --tag kinitro/metaworld:v1")
def build_image(
    image: Annotated[Image, typer.Argument(help="An environment family, or `miner`: what policies run in.")],
    tag: Annotated[
        str | None, typer.Option("--tag", help="The image's name.", show_default="kinitro/metaworld:v1 and so on")
    ] = None,
    push: Annotated[bool, typer.Option("--push", help="Push it when it is built.")] = False,
    registry: Annotated[str | None, typer.Option("--registry", help="Where to push it, e.g. ghcr.io/me.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Build every layer anew.")] = False,
    base_image: Annotated[
        str | None,
        typer.Option(
            "--base-image",
            help="Debian with Python 3.11 (KINITRO_BUILD_BASE_IMAGE).",
            show_default="python:3.11-slim-bookworm",
        ),
    ] = None,
    torch_index: Annotated[
        str | None,
        typer.Option(
            "--torch-index",
            help="miner: the index torch comes from; `none` leaves it out (KINITRO_BUILD_TORCH_INDEX).",
            show_default="PyTorch's CPU index",
        ),
    ] = None,
    unity: Annotated[
        str | None,
        typer.Option(
            "--unity",
            help="procthor: AI2-THOR's Unity build: `download`, a folder, or `none` to leave it out.",
            show_default="download",
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the builder's every line.")] = False,
) -> None:
    """Build an image for Docker mode with affinetes."""
    from kinitro.backends.images import DEFAULT_TAGS, BuildOptions, build
    from kinitro.settings import BuildSettings

    def show(line: str) -> None:
        if verbose or line.startswith("Step "):
            typer.echo(line if verbose else line[:100])

    settings = BuildSettings.load(base_image=base_image, torch_index=torch_index)
    options = BuildOptions(
        tag=tag or DEFAULT_TAGS[image.value],
        base_image=settings.base_image,
        torch_index=settings.torch_index,
        unity=unity,
        no_cache=no_cache,
        push=push,
        registry=registry,
    )
    full_tag = build(image.value, options, show)
    typer.echo(f"Built {full_tag}" + (" and pushed it." if push else "."))

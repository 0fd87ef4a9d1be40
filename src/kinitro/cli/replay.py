"""`kinitro replay`: finished episodes run again from their records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from kinitro.cli.common import (
    ApiUrl,
    JsonFlag,
    LogLevel,
    configure,
    counted,
    print_json,
    run_service,
)
from kinitro.cli.file_trouble import check_output
from kinitro.cli.results import read_export
from kinitro.errors import ConfigurationError
from kinitro.types import EvalMode

if TYPE_CHECKING:
    from kinitro.client import KinitroClient
    from kinitro.replay import Recorded, Replay, Run
    from kinitro.schemas import CycleExport, EpisodeOut, ExportEpisode
    from kinitro.settings import ExecutorSettings


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog="Example: kinitro replay --last-failure --miner 3 --video failure.mp4")(replay)


def replay(
    task_uuid: Annotated[str | None, typer.Argument(help="A task of a closed cycle.", show_default=False)] = None,
    miner: Annotated[int | None, typer.Option("--miner", help="The miner's uid.")] = None,
    environment: Annotated[str | None, typer.Option("--environment", help="With --miner: which environment.")] = None,
    index: Annotated[int | None, typer.Option("--index", help="With --environment: which episode, from 0.")] = None,
    last_failure: Annotated[
        bool, typer.Option("--last-failure", help="With --miner: a failed episode worth seeing, of its latest cycle.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every episode of a cycle (of --miner, when given).")
    ] = False,
    cycle: Annotated[
        int | None, typer.Option("--cycle", help="Which cycle.", show_default="the last completed")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="Read an exported cycle instead of asking the API.")
    ] = None,
    api_url: ApiUrl = None,
    video: Annotated[Path | None, typer.Option("--video", help="Write a video of the episode, FILE.mp4.")] = None,
    without_policy: Annotated[
        bool,
        typer.Option(
            "--without-policy", help="Apply the recorded actions in a simulator of this process; run no policy."
        ),
    ] = False,
    eval_mode: Annotated[
        EvalMode | None,
        typer.Option(
            "--eval-mode",
            help="Where the policy runs: docker, or process, which has no isolation.",
            show_default="docker",
        ),
    ] = None,
    eval_images: Annotated[
        str | None, typer.Option("--eval-images", help="Images by family, as JSON.", show_default="the recorded ones")
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option("--max-concurrent", min=1, help="Episodes at once.", show_default="the cores")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Run finished episodes again from their seeds, and say whether they come out the same, or where they part.

    What is not given is as for an executor here (KINITRO_EXECUTOR_...). Exit code 0: the same; 1: different, or it
    can't be told.
    """
    configure(LogLevel.WARNING)
    exported = None if export is None else read_export(export)
    wanted = _Wanted(_uuid(task_uuid), miner, environment, index, last_failure, everything, cycle)
    wanted.check(video)
    if video is not None:
        _check_video(video)
    settings = _settings(api_url, eval_mode=eval_mode, eval_images=eval_images, max_concurrent=max_concurrent)
    if settings.eval_mode is EvalMode.BASILICA and not without_policy:
        raise ConfigurationError(
            "A replay runs policies in docker or process mode, not in basilica mode.",
            advice="Add --eval-mode docker, or process for a policy that you trust.",
        )
    done: list[Replay] = []
    show = (lambda _: None) if json else _show
    run_service(lambda: _run_again(wanted, exported, settings, without_policy, done, show), has_own_end=True)
    if video is not None:
        _film(done[0], video)
    if json:
        print_json([_document(one) for one in done])
    elif len(done) > 1:
        _summarise(done)
    if not all(_is_same(one) for one in done):
        raise typer.Exit(1)


def _settings(api_url: str | None, **flags: object) -> "ExecutorSettings":
    """Those of an executor on this machine; its API only where nothing names one to read from."""
    from kinitro.settings import ExecutorSettings, SharedSettings

    shared = SharedSettings.load(api_url=api_url)
    return ExecutorSettings.load(api_url=shared.api_url if "api_url" in shared.model_fields_set else None, **flags)


def _uuid(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not the UUID of a task.", param_hint="task_uuid") from None


@dataclass(frozen=True)
class _Wanted:
    """Which episodes, as the flags say it."""

    task_uuid: UUID | None
    miner: int | None
    environment: str | None
    index: int | None
    last_failure: bool
    everything: bool
    cycle: int | None

    def check(self, video: Path | None) -> None:
        """Raises `typer.BadParameter` unless the flags name episodes in exactly one way."""
        one = self.environment is not None or self.index is not None
        ways = [self.task_uuid is not None, one, self.last_failure, self.everything]
        if sum(ways) != 1:
            raise typer.BadParameter(
                "Say which: TASK_UUID; or --miner, --environment and --index; or --last-failure --miner; or --all."
            )
        if one and None in (self.miner, self.environment, self.index):
            raise typer.BadParameter("--miner, --environment and --index belong together.")
        if self.last_failure and self.miner is None:
            raise typer.BadParameter("--last-failure needs --miner UID.")
        if video is not None and self.everything:
            raise typer.BadParameter("--video is of one episode, not of --all.")

    def choose(self, export: "CycleExport") -> "list[ExportEpisode]":
        """Out of a cycle."""
        from kinitro.replay import can_be_replayed, failure_worth_seeing, select

        if self.last_failure and self.miner is not None:
            return [failure_worth_seeing(export, self.miner)]
        if self.miner is not None and self.environment is not None and self.index is not None:
            return [select(export, self.miner, self.environment, self.index)]
        chosen = [episode for episode in export.episodes if can_be_replayed(episode)]
        chosen = [episode for episode in chosen if self.miner in (None, episode.uid)]
        if not chosen:
            raise ConfigurationError(f"Cycle {export.cycle_id} has no such episode that ran.")
        return chosen


async def _run_again(
    wanted: _Wanted,
    export: "CycleExport | None",
    settings: "ExecutorSettings",
    without_policy: bool,
    done: "list[Replay]",
    show: "Callable[[Replay], None]",
) -> None:
    from kinitro.replay import replay as run_again
    from kinitro.replay import without_policy as apply_actions

    episodes = [await _read(out, settings) for out in await _find(wanted, export, settings)]
    runs = apply_actions(episodes) if without_policy else run_again(episodes, settings)
    async for one in runs:
        done.append(one)
        show(one)


async def _find(wanted: _Wanted, export: "CycleExport | None", settings: "ExecutorSettings") -> "list[EpisodeOut]":
    """The wanted episodes, from the export or the API."""
    from kinitro.client import KinitroClient
    from kinitro.replay import episodes_of

    if export is None:
        async with KinitroClient(settings.api_url) as client:
            if wanted.task_uuid is not None:
                return [await client.episode(wanted.task_uuid)]
            chosen = wanted.choose(await _cycle(client, wanted.cycle))
            return [await client.episode(episode.task_uuid) for episode in chosen if episode.task_uuid is not None]
    known = {out.episode.task_uuid: out for out in episodes_of(export)}
    if wanted.task_uuid is None:
        return [known[episode.task_uuid] for episode in wanted.choose(export)]
    if wanted.task_uuid not in known:
        raise ConfigurationError(f"The export, of cycle {export.cycle_id}, has no task {wanted.task_uuid}.")
    return [known[wanted.task_uuid]]


async def _cycle(client: "KinitroClient", cycle_id: int | None) -> "CycleExport":
    if cycle_id is None:
        last = (await client.status()).last_completed_cycle
        if last is None:
            raise ConfigurationError("No cycle has been completed yet.", advice="See how far it is: kinitro db status")
        cycle_id = last.id
    return await client.export(cycle_id)


async def _read(out: "EpisodeOut", settings: "ExecutorSettings") -> "Recorded":
    """The record with its steps, wherever they are kept; without them when they can't be had from there."""
    from kinitro.errors import InfrastructureError
    from kinitro.replay import recorded, steps_elsewhere

    steps = None
    try:
        steps = await steps_elsewhere(out, settings.records_url)
    except InfrastructureError as error:
        typer.echo(f"Note: {error.message} The replay goes on without the recorded steps.", err=True)
    return recorded(out, steps)


def _is_same(one: "Replay") -> bool:
    from kinitro.replay import Answer

    return one.comparison is not None and one.comparison.answer is Answer.SAME


def _show(one: "Replay") -> None:
    """A line, and what is different under it."""
    if one.comparison is None or one.run is None:
        typer.echo(f"failed     {one.recorded.name}")
        typer.echo(f"           {one.failure}")
        return
    run, found = one.run, one.comparison
    typer.echo(
        f"{found.answer.value:<10} {one.recorded.name}: {run.verdict} after {run.timesteps} steps, reward "
        f"{run.total_reward:.2f}; compared: {found.compared}"
    )
    for line in found.findings:
        typer.echo(f"           {line}")


def _summarise(done: "Sequence[Replay]") -> None:
    same = sum(_is_same(one) for one in done)
    typer.echo(f"{same} of {counted(len(done), 'episode')} came out the same.")


def _document(one: "Replay") -> dict[str, object]:
    found, run = one.comparison, one.run
    return {
        "task_uuid": str(one.recorded.task_uuid),
        "answer": found.answer.value if found else "failed",
        "compared": found.compared if found else None,
        "first_step": found.first_step if found else None,
        "findings": list(found.findings) if found else [str(one.failure)],
        "recorded": _run_document(one.recorded.run),
        "replayed": _run_document(run) if run else None,
    }


def _run_document(run: "Run") -> dict[str, object]:
    return {name: value for name, value in vars(run).items() if name not in ("steps", "conditions")} | {
        "conditions": run.conditions.model_dump(mode="json")
    }


def _check_video(video: Path) -> None:
    """Before the episode is run."""
    from kinitro.replay.film import check_packages

    check_output("--video", video, ".mp4")
    check_packages()


def _film(one: "Replay", video: Path) -> None:
    from kinitro.replay.film import film

    if one.run is None or one.run.steps is None:
        typer.echo(f"Note: no video, since it could not be run again: {one.failure}", err=True)
        return
    shown = film(one.recorded, one.run, video)
    typer.echo(f"Video: {video}", err=True)
    if shown.trace_digest != one.run.trace_digest:
        typer.echo(
            "Note: this machine's own simulator, which drew the video, answers these actions in another way than the "
            f"one that ran them: the video's episode is a {shown.verdict} after {shown.timesteps} steps.",
            err=True,
        )

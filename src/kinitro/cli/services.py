"""`kinitro api`, `scheduler` and `executor`: the long-running services."""

from typing import TYPE_CHECKING, Annotated

import typer

from kinitro.cli.common import DatabaseUrl, LogFormat, LogFormatFlag, LogLevel, LogLevelFlag, configure, run_service
from kinitro.types import EvalMode

if TYPE_CHECKING:
    from kinitro.settings import ExecutorSettings


def register(app: typer.Typer) -> None:
    """Adds the services to the command tree."""
    app.command(epilog="Example: kinitro api --database-url postgresql://me:pw@localhost/kinitro --port 8000")(api)
    app.command(epilog="Example: kinitro scheduler --network dev --netuid 1 --eval-interval 60 --episodes-per-env 10")(
        scheduler
    )
    app.command(epilog="Example: kinitro executor --api-url http://localhost:8000 --eval-mode process")(executor)


def api(
    database_url: DatabaseUrl = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on.", show_default="8000")] = None,
    no_auth: Annotated[
        bool | None, typer.Option("--no-auth", help="Take results without a key. Only on a loopback address.")
    ] = None,
    log_level: LogLevelFlag = LogLevel.INFO,
    log_format: LogFormatFlag = LogFormat.CONSOLE,
) -> None:
    """Run the HTTP API: hands tasks out, takes results in, shows scores and weights."""
    from kinitro.api import serve
    from kinitro.settings import ApiSettings

    configure(log_level, log_format)
    settings = ApiSettings.load(database_url=database_url, host=host, port=port, no_auth=no_auth)
    run_service(lambda: serve(settings))


def scheduler(
    database_url: DatabaseUrl = None,
    network: Annotated[
        str | None,
        typer.Option(
            "--network", help="finney, test, local, ws://..., or dev (an embedded ledger).", show_default="finney"
        ),
    ] = None,
    netuid: Annotated[int | None, typer.Option("--netuid", help="The subnet.", show_default="1")] = None,
    eval_interval: Annotated[
        float | None,
        typer.Option("--eval-interval", help="Seconds from one cycle's start to the next.", show_default="3600"),
    ] = None,
    episodes_per_env: Annotated[
        int | None, typer.Option("--episodes-per-env", help="Episodes a miner and environment.", show_default="50")
    ] = None,
    env_families: Annotated[
        str | None, typer.Option("--env-families", help="Comma-separated families; their default environments.")
    ] = None,
    environments: Annotated[
        str | None, typer.Option("--environments", help="Comma-separated environment ids, e.g. metaworld/reach-v3.")
    ] = None,
    log_level: LogLevelFlag = LogLevel.INFO,
    log_format: LogFormatFlag = LogFormat.CONSOLE,
) -> None:
    """Run cycles: read commitments, plan episodes, score what came back, publish weights."""
    from kinitro.scheduler import serve
    from kinitro.settings import SchedulerSettings

    configure(log_level, log_format)
    settings = SchedulerSettings.load(
        database_url=database_url,
        network=network,
        netuid=netuid,
        eval_interval_seconds=eval_interval,
        episodes_per_env=episodes_per_env,
        env_families=env_families,
        environments=environments,
    )
    run_service(lambda: serve(settings))


def executor(
    api_url: Annotated[
        str | None, typer.Option("--api-url", help="The Kinitro API.", show_default="http://localhost:8000")
    ] = None,
    executor_id: Annotated[
        str | None,
        typer.Option(
            "--executor-id", help="This executor's name.", show_default="a name that stays, kept in KINITRO_HOME"
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Most tasks to lease at once (1 to 100).", show_default="10")
    ] = None,
    poll_interval: Annotated[
        float | None,
        typer.Option("--poll-interval", help="Seconds between looks for work when idle.", show_default="5"),
    ] = None,
    eval_mode: Annotated[
        EvalMode | None,
        typer.Option("--eval-mode", help="Where policies run. `process` has no isolation.", show_default="docker"),
    ] = None,
    eval_images: Annotated[
        str | None,
        typer.Option(
            "--eval-images", help="Images by family, as JSON.", show_default='{"metaworld": "kinitro/metaworld:v1"}'
        ),
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option("--max-concurrent", help="Episodes at once.", show_default="what the processors allow")
    ] = None,
    env_families: Annotated[
        str | None,
        typer.Option(
            "--env-families",
            help="Comma-separated families this executor serves.",
            show_default="those of the default set",
        ),
    ] = None,
    miner_deployment_warmup_timeout: Annotated[
        float | None,
        typer.Option(
            "--miner-deployment-warmup-timeout", help="Seconds a policy has to get ready.", show_default="300"
        ),
    ] = None,
    cleanup: Annotated[
        bool, typer.Option("--cleanup", help="Only remove what executors that were killed left in Docker.")
    ] = False,
    log_level: LogLevelFlag = LogLevel.INFO,
    log_format: LogFormatFlag = LogFormat.CONSOLE,
) -> None:
    """Run episodes: lease tasks, start each miner's policy, evaluate it in simulation, report."""
    from kinitro.executor import run
    from kinitro.settings import ExecutorSettings

    configure(log_level, log_format)
    settings = ExecutorSettings.load(
        api_url=api_url,
        executor_id=executor_id,
        batch_size=batch_size,
        poll_interval_seconds=poll_interval,
        eval_mode=eval_mode,
        eval_images=eval_images,
        max_concurrent=max_concurrent,
        env_families=env_families,
        miner_deployment_warmup_timeout=miner_deployment_warmup_timeout,
    )
    if cleanup:
        _clean_up(settings)
        return
    run_service(lambda: run(settings))


def _clean_up(settings: "ExecutorSettings") -> None:
    import asyncio

    from kinitro.backends.docker import clean_up
    from kinitro.executor.stage import docker_hosts

    removed = sum(asyncio.run(clean_up(host)) for host in docker_hosts(settings))
    typer.echo(f"Removed {removed} containers, networks and volumes." if removed else "Nothing was left.")

"""What several commands share: flags, running a service until a signal, printing JSON."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer


class LogLevel(StrEnum):
    """How much a service says."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class LogFormat(StrEnum):
    """key=value for people, JSON for machines."""

    CONSOLE = "console"
    JSON = "json"


DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="postgresql://user:password@host:port/name. Without it: an embedded PostgreSQL in your data directory "
        "(KINITRO_HOME).",
        show_default=False,
    ),
]
LogLevelFlag = Annotated[LogLevel, typer.Option("--log-level", case_sensitive=False, help="How much to log.")]
LogFormatFlag = Annotated[
    LogFormat, typer.Option("--log-format", case_sensitive=False, help="key=value lines, or JSON.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ApiUrl = Annotated[
    str | None,
    typer.Option(
        "--api-url",
        "--backend-url",
        help="The Kinitro API to read from (KINITRO_API_URL).",
        show_default="http://localhost:8000",
    ),
]


def chosen_database(flag: str | None) -> str | None:
    """The flag, else the scheduler's variable, else the API's: both services share one database."""
    from kinitro.settings import ApiSettings, SchedulerSettings

    return flag or SchedulerSettings.load().database_url or ApiSettings.load().database_url


def chosen_api(flag: str | None) -> str:
    """The address of the API that a command reads from."""
    from kinitro.settings import SharedSettings

    return SharedSettings.load(api_url=flag).api_url


def debugging() -> bool:
    """True when the user asked for everything: tracebacks are shown then."""
    return os.environ.get("KINITRO_DEBUG") == "1"


def configure(level: LogLevel, log_format: LogFormat = LogFormat.CONSOLE) -> None:
    """Sets up logging from the two flags every service has."""
    from kinitro.logs import configure_logging

    if level is LogLevel.DEBUG:
        os.environ["KINITRO_DEBUG"] = "1"
    configure_logging(level.value, log_format.value)


def run_service(service: Callable[[], Coroutine[Any, Any, None]], *, has_own_end: bool = False) -> None:
    """Runs a service until it ends by itself or SIGINT or SIGTERM cancels it; a second signal ends the process.

    Both signals are how a service is stopped: exit code 0. They cut a command short that has an end of its own: 130
    and 143, with nothing after this call run (decision 0015).
    A signal that was ignored when this process began stays ignored, as in a script's background commands.
    """
    received: list[int] = []
    heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]

    async def supervised() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(service())

        def stop(number: int) -> None:
            received.append(number)
            task.cancel()
            # The next signal does what it does by default: end at once.
            for each in heeded:
                loop.remove_signal_handler(each)

        for number in heeded:
            loop.add_signal_handler(number, stop, number)
        try:
            await task
        except asyncio.CancelledError:
            if not received:
                raise

    asyncio.run(supervised())
    if signal.SIGINT in received:
        typer.echo("Interrupted; everything this command started was stopped.", err=True)
    if received and has_own_end:
        raise typer.Exit(128 + received[0])


def plain(value: object) -> dict[str, object]:
    """A dataclass, with the dataclasses, models and read-only mappings in it, as JSON has it."""
    from pydantic_core import to_jsonable_python

    found: dict[str, object] = to_jsonable_python(value, fallback=_plain_mapping)
    return found


def _plain_mapping(value: object) -> dict[object, object]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def counted(number: int, thing: str) -> str:
    """`1 miner`, `2 miners`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def print_json(value: object) -> None:
    """Prints one JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2, default=str))

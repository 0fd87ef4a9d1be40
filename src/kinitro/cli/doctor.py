"""`kinitro doctor`: is everything there that a role needs, and what to do where it is not?"""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from kinitro.cli.common import DatabaseUrl, JsonFlag, counted, plain, print_json
from kinitro.cli.validate import with_network
from kinitro.cli.wallet_flags import (
    HotkeyNameFlag,
    NetworkFlag,
    WalletNameFlag,
    WalletPathFlag,
    chosen_network,
    chosen_wallet,
    wallet_is_named,
)
from kinitro.doctor.findings import Role
from kinitro.types import EvalMode

if TYPE_CHECKING:
    from kinitro.doctor.findings import Report, Section
    from kinitro.settings import ServiceSettings

_INDENT = 27


def register(app: typer.Typer) -> None:
    """Adds the command to the command tree."""
    app.command(epilog="Example: kinitro doctor --role executor --api-url http://localhost:8000")(doctor)


def doctor(
    role: Annotated[
        list[Role] | None,
        typer.Option("--role", help="Only this role; may be repeated.", show_default="those configured here"),
    ] = None,
    database_url: DatabaseUrl = None,
    network: NetworkFlag = None,
    netuid: Annotated[int | None, typer.Option("--netuid", min=0, max=65535, help="The subnet.")] = None,
    wallet_name: WalletNameFlag = None,
    hotkey_name: HotkeyNameFlag = None,
    wallet_path: WalletPathFlag = None,
    api_url: Annotated[str | None, typer.Option("--api-url", help="The API that an executor works for.")] = None,
    backend_url: Annotated[str | None, typer.Option("--backend-url", help="The API that a validator follows.")] = None,
    eval_mode: Annotated[EvalMode | None, typer.Option("--eval-mode", help="An executor's mode.")] = None,
    eval_images: Annotated[str | None, typer.Option("--eval-images", help="An executor's images, as JSON.")] = None,
    json: JsonFlag = False,
) -> None:
    """Look at everything a role needs on this machine, and say what to do about what is missing.

    Reads the same flags, variables and .env as the services, and changes nothing. Without --role it looks at the
    machine and at each role that something is configured for. Exit code 1 when something that is needed fails.
    """
    from kinitro.doctor.examine import examine
    from kinitro.doctor.plan import MinerSubject, Subjects
    from kinitro.logs import configure_logging
    from kinitro.settings import ApiSettings, ExecutorSettings, SchedulerSettings, ValidatorSettings

    configure_logging("ERROR")
    named = {"wallet_name": wallet_name, "hotkey_name": hotkey_name, "wallet_path": wallet_path}
    validator = with_network(ValidatorSettings.load(backend_url=backend_url, network=network, netuid=netuid, **named))
    own = chosen_wallet(wallet_name, hotkey_name, wallet_path)
    mines = wallet_is_named(wallet_name, hotkey_name) or own.file.is_file()
    configured = {
        Role.MINER: mines,
        Role.EXECUTOR: bool(api_url or eval_mode or eval_images) or _is_set(ExecutorSettings),
        # A miner gives the subnet's flags too.
        Role.SCHEDULER: bool(database_url)
        or (not mines and (network or netuid) is not None)
        or _is_set(SchedulerSettings),
        Role.API: bool(database_url) or _is_set(ApiSettings),
        Role.VALIDATOR: bool(backend_url) or _is_set(ValidatorSettings),
    }
    subjects = Subjects(
        miner=MinerSubject(chosen_network(network), netuid, own),
        executor=ExecutorSettings.load(api_url=api_url, eval_mode=eval_mode, eval_images=eval_images),
        scheduler=SchedulerSettings.load(database_url=database_url, network=network, netuid=netuid),
        api=ApiSettings.load(database_url=database_url),
        validator=validator,
        validator_hotkey=chosen_wallet(validator.wallet_name, validator.hotkey_name, validator.wallet_path),
        configured=frozenset(each for each, is_so in configured.items() if is_so),
    )
    report = asyncio.run(examine(subjects, role or None))
    if json:
        print_json({"healthy": report.healthy, **plain(report)})
    else:
        _print(report)
    if not report.healthy:
        raise typer.Exit(1)


def _is_set(kind: "type[ServiceSettings]") -> bool:
    """Whether a variable or `.env` says anything for this service."""
    return bool(kind.load().model_fields_set)


def _print(report: "Report") -> None:
    from kinitro.doctor.findings import Verdict

    for section in report.sections:
        _print_section(section)
    if report.not_examined:
        roles = ", ".join(role.value for role in report.not_examined)
        typer.echo(f"Nothing is configured for {roles}; to look all the same: kinitro doctor --role ROLE")
    failures, warnings = report.count(Verdict.FAILED), counted(report.count(Verdict.WARNING), "warning")
    if report.healthy:
        typer.echo(f"Healthy{f', with {warnings}' if report.count(Verdict.WARNING) else ''}.")
    else:
        typer.echo(f"{failures} to fix, {warnings}.")


def _print_section(section: "Section") -> None:
    from kinitro.logs import mask, printable

    typer.echo(f"{section.role.value}:")
    for finding in section.findings:
        typer.echo(f"  {finding.verdict.value:<8} {finding.subject:<16} {printable(mask(finding.text))}")
        if finding.advice:
            typer.echo(f"{'':<{_INDENT}} {printable(mask(finding.advice))}")

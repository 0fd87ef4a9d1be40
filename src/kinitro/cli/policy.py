"""`kinitro miner init`, `serve`, `check` and `deploy`: from an empty folder to a policy that is evaluated."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinitro.cli.common import JsonFlag, counted, plain, print_json, run_service
from kinitro.cli.wallet_flags import (
    HotkeyNameFlag,
    NetuidFlag,
    NetworkFlag,
    WalletNameFlag,
    WalletPathFlag,
    chosen_network,
    chosen_wallet,
)
from kinitro.types import FolderTemplate

if TYPE_CHECKING:
    from kinitro.miner.check import CheckPlan
    from kinitro.miner.deploy import Deployed
    from kinitro.miner.findings import Finding, Report

_MARKS = {"good": "ok  ", "note": "note", "skipped": "skip", "fix": "FIX "}


def register(app: typer.Typer) -> None:
    """Adds the commands to the `miner` group."""
    app.command(epilog="Example: kinitro miner init my-policy")(init)
    app.command(epilog="Example: kinitro miner serve my-policy --port 9000")(serve)
    app.command(epilog="Example: kinitro miner check my-policy --environments metaworld/reach-v3 --episodes 5")(check)
    app.command(
        epilog="Example: kinitro miner deploy --repo me/policy --path my-policy --netuid 2 --network test "
        "--wallet-name me --hotkey-name default"
    )(deploy)


def init(
    path: Annotated[Path, typer.Argument(help="The folder to make.", show_default=False)],
    template: Annotated[
        FolderTemplate, typer.Option("--template", help="minimal: one small class; lerobot: a trained LeRobot policy.")
    ] = FolderTemplate.MINIMAL,
) -> None:
    """Write a complete policy folder that works as it is."""
    from kinitro.miner.folder import create_folder

    names = create_folder(path, template)
    typer.echo(f"Made {path}: {', '.join(names)}")
    typer.echo("Next:")
    if template is FolderTemplate.LEROBOT:
        typer.echo(f"  cp .../pretrained_model/* {path}      the weights, which are still missing")
    typer.echo(f"  edit {path / 'policy.py'}")
    if template is FolderTemplate.LEROBOT:
        typer.echo(
            f"  kinitro miner check {path} --lock      lock its requirements.in, and try it in real environments"
        )
    else:
        typer.echo(f"  kinitro miner check {path}      try it, in real environments")
    typer.echo(f"  kinitro miner deploy --repo USER/NAME --path {path} --netuid NETUID --network NETWORK")


def serve(
    path: Annotated[Path, typer.Argument(help="The policy folder.", show_default=False)] = Path(),
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.")] = 8010,
) -> None:
    """Run a policy as the evaluator runs it, until Ctrl-C. Nothing isolates it: serve only what you trust."""
    from kinitro.miner.serve import serve_folder

    serve_folder(path, host, port)


def check(
    path: Annotated[Path, typer.Argument(help="The policy folder.", show_default=False)] = Path(),
    episodes: Annotated[int, typer.Option("--episodes", min=0, help="Episodes in real environments.")] = 3,
    environments: Annotated[
        str | None,
        typer.Option(
            "--environments",
            help="Comma-separated ids of those to try, in turn.",
            show_default="those of a cycle",
        ),
    ] = None,
    lock: Annotated[
        bool, typer.Option("--lock", help="First write requirements.txt from requirements.in; needs uv or pip.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Say whether a policy is ready to be evaluated, or what to fix. Exit code 1 when there is something to fix.

    The policy runs on this machine without isolation: check only what you trust.
    """
    from kinitro.miner.lock import lock_requirements

    if lock:
        locked = lock_requirements(path)
        typer.echo(
            f"Wrote {locked.path}: {counted(len(locked.requirements), 'package')}, resolved by {locked.tool}.", err=True
        )
    report = run_check(path, check_plan(episodes, environments), quiet=json)
    if json:
        print_json({"ready": report.ready, **plain(report)})
    if not report.ready:
        raise typer.Exit(1)


def check_plan(episodes: int, environments: str | None) -> "CheckPlan":
    """What a check tries: by default the environments of a cycle."""
    from kinitro.environments import registry
    from kinitro.miner.check import CheckPlan
    from kinitro.settings import MinerSettings

    default = registry.select()
    chosen = [registry.find(env_id.strip()) for env_id in environments.split(",")] if environments else default
    return CheckPlan(chosen, episodes, len(default), MinerSettings.load())


def run_check(path: Path, plan: "CheckPlan", *, quiet: bool = False) -> "Report":
    """Checks a folder, printing each finding as it is made and the verdict at the end."""
    from kinitro.logs import configure_logging
    from kinitro.miner.check import check_policy

    configure_logging("WARNING")
    reports: list[Report] = []

    async def work() -> None:
        reports.append(await check_policy(path, plan, (lambda _: None) if quiet else _print_finding))

    # So that a signal takes the copy of the policy and its server along.
    run_service(work, has_own_end=True)
    (report,) = reports
    if not quiet:
        _print_verdict(report)
    return report


def _print_finding(finding: "Finding") -> None:
    from kinitro.logs import mask

    first, *rest = mask(finding.text).splitlines() or [""]
    typer.echo(f"{_MARKS[finding.verdict.value]}  {finding.subject}: {first}")
    for line in rest:
        typer.echo(f"      {line}")


def _print_verdict(report: "Report") -> None:
    from kinitro.miner.findings import Verdict

    to_fix, skipped = report.of(Verdict.FIX), report.of(Verdict.SKIPPED)
    if to_fix:
        typer.echo(f"Not ready. To fix: {', '.join(dict.fromkeys(finding.subject for finding in to_fix))}.")
    elif skipped:
        names = ", ".join(dict.fromkeys(finding.subject for finding in skipped))
        typer.echo(f"Ready, as far as this machine can tell. Not checked: {names}.")
    else:
        typer.echo("Ready.")


def deploy(
    repo: Annotated[str, typer.Option("--repo", help="The HuggingFace repo, user/name; made when missing.")],
    path: Annotated[Path | None, typer.Option("--path", help="The policy folder.", show_default=False)] = None,
    netuid: NetuidFlag = 1,
    network: NetworkFlag = None,
    wallet_name: WalletNameFlag = None,
    hotkey_name: HotkeyNameFlag = None,
    wallet_path: WalletPathFlag = None,
    skip_upload: Annotated[
        bool, typer.Option("--skip-upload", help="Commit what the repo holds at --revision; upload nothing.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="With --skip-upload: the commit, all 40 hex digits.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Leave the repo private, for operators that have a token.")
    ] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Deploy without `miner check` first.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, and show what would be done; send nothing.")
    ] = False,
) -> None:
    """Check a policy, upload it to HuggingFace and name it on chain: from then on it is evaluated.

    Needs HF_TOKEN (write access) or a saved login, and a registered hotkey. A new revision starts at the back of the
    line; the same again changes nothing.
    """
    from kinitro.chain import hotkey_address, load_signer, open_chain
    from kinitro.deployments.hub import HubPublisher
    from kinitro.miner import deploy as deploying

    if skip_upload != (revision is not None) or (path is None) != skip_upload:
        raise typer.BadParameter("give either --path, or --skip-upload with --revision")
    plan = deploying.DeployPlan(repo, path or Path(), netuid, revision, private)
    chosen, name = chosen_network(network), chosen_wallet(wallet_name, hotkey_name, wallet_path)
    # A wrong wallet, a token or a repo that is not theirs, a hub that is away: said before minutes of checking.
    hotkey, hub = hotkey_address(chosen, name), None if dry_run else HubPublisher()
    if hub is not None and path is not None:
        asyncio.run(hub.check_rights(repo))
    if path is not None and not no_check and not run_check(path, check_plan(3, None)).ready:
        typer.echo("Nothing was sent. `--no-check` deploys it all the same.", err=True)
        raise typer.Exit(1)
    signer = None if dry_run else load_signer(chosen, name)

    async def run() -> "Deployed | None":
        async with open_chain(chosen) as chain:
            if signer is None or hub is None:
                await deploying.preview(plan, chain, hotkey, typer.echo)
                return None
            return await deploying.deploy(plan, chain, signer, hub, typer.echo)

    done = asyncio.run(run())
    if done is not None:
        _say_deployed(done, netuid, chosen)


def _say_deployed(done: "Deployed", netuid: int, network: str) -> None:
    commit = done.commit
    if commit.registered_uid is not None:
        typer.echo(f"Registered the hotkey on netuid {netuid} of the dev ledger: uid {commit.registered_uid}.")
    what = "Already committed" if commit.already else "Committed"
    typer.echo(f"{what}: {done.ref.repo}@{done.ref.revision}")
    typer.echo(f"for {commit.hotkey} on netuid {netuid} of {network}, block {commit.block}.")
    if done.private:
        typer.echo(f"{done.ref.repo} is private: only operators with a token that may read it can evaluate it.")
    typer.echo("Next: the scheduler takes it into the next cycle it starts. To watch:")
    typer.echo(f"  kinitro miner status --hotkey {commit.hotkey} --netuid {netuid} --network {network} --api-url URL")

"""The demo from an empty directory to a leaderboard: ledger, miners, services, one cycle."""

import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from kinitro.backends import Backend, LaunchSpec, NetworkAccess, ProcessBackend, Role, Running
from kinitro.chain import DEV_LEDGER_FILE, DevLedger, dev_signer, format_commitment
from kinitro.client import KinitroClient
from kinitro.demo.leaderboard import Outcome, show
from kinitro.demo.miners import MINERS, DemoMiner, write_folder
from kinitro.demo.progress import watch_cycle
from kinitro.deployments import SnapshotStore
from kinitro.environments.gl import FORCED, working_library
from kinitro.errors import (
    ApiError,
    ApiUnreachable,
    ConfigurationError,
    EnvironmentFault,
    InfrastructureError,
)
from kinitro.schemas import WeightsOut

NETUID = 1
ENVIRONMENTS = (
    "metaworld/drawer-close-v3",
    "metaworld/drawer-open-v3",
    "metaworld/push-v3",
    "metaworld/reach-v3",
)
MAX_TIMESTEPS = 250
"""The bundled policies either succeed well within this or never."""
NEXT_CYCLE_S = "120"
"""When `--keep` leaves the services up."""
API_READY_S = 60.0


@dataclass(frozen=True)
class DemoOptions:
    """`episodes` a miner and environment; `keep` leaves the services up after the first leaderboard.

    `home` is where the data is left, a directory that is new or empty; None leaves nothing.
    """

    episodes: int = 10
    keep: bool = False
    home: Path | None = None


@dataclass(frozen=True)
class Services:
    """The three processes, started as on a production machine."""

    api: Running
    scheduler: Running
    executor: Running

    async def check(self) -> None:
        """Raises with the last lines of a service's log when it has ended."""
        for name, running in (("api", self.api), ("scheduler", self.scheduler), ("executor", self.executor)):
            code = await running.exit_code()
            if code is not None:
                raise InfrastructureError(
                    f"The {name} ended with exit code {code}. Its last lines:\n{await running.logs(12)}",
                    code="service_ended",
                )


async def run_demo(options: DemoOptions, console: Console) -> None:
    """Runs the demo in a directory of its own. Everything that was started is stopped at the end."""
    with _home(options) as home:
        key = secrets.token_urlsafe(24)
        console.print(
            f"[bold]Kinitro demo[/]: {len(MINERS)} miners, {len(ENVIRONMENTS)} MetaWorld environments in MuJoCo"
        )
        images = await _can_draw(console)
        await enter_miners(home)
        async with ProcessBackend() as backend:
            await _initialise(backend, home)
            async with _services(backend, home, key, options, images=images) as services:
                await _evaluate(services, home, options, console)


@contextmanager
def _home(options: DemoOptions) -> Iterator[Path]:
    if options.home is None:
        with tempfile.TemporaryDirectory(prefix="kinitro-demo-", ignore_cleanup_errors=True) as directory:
            yield Path(directory)
        return
    if options.home.exists() and (not options.home.is_dir() or any(options.home.iterdir())):
        raise ConfigurationError(
            f"{options.home} is not empty.", advice="Name a new directory: kinitro demo --home DIR"
        )
    options.home.mkdir(parents=True, exist_ok=True)
    yield options.home.absolute()


async def _can_draw(console: Console) -> bool:
    try:
        await asyncio.to_thread(working_library)
    except EnvironmentFault as fault:
        console.print(f"Note: {fault.message} The demo goes on without: no policy can see.")
        if fault.advice:
            console.print(f"  {fault.advice}")
        return False
    return True


async def enter_miners(home: Path) -> None:
    """Registers the bundled miners on the dev ledger and lets each commit its policy, in order.

    Their snapshots go into the executor's snapshot cache, as if it had fetched them from a hub.
    """
    await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True)
    ledger = DevLedger(home / DEV_LEDGER_FILE)
    store = SnapshotStore(home / "snapshots")
    commitment_of: dict[str, str] = {}
    for miner in MINERS:
        if miner.repo not in commitment_of:
            commitment_of[miner.repo] = await asyncio.to_thread(_upload, store, miner, home)
        signer = dev_signer("demo", miner.name)
        await ledger.register(NETUID, signer.ss58_address)
        await ledger.commit(NETUID, commitment_of[miner.repo], signer)
    await ledger.close()


def _upload(store: SnapshotStore, miner: DemoMiner, home: Path) -> str:
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        folder = Path(scratch) / "policy"
        write_folder(miner, folder)
        return format_commitment(store.add_local(folder, miner.repo))


async def _initialise(backend: Backend, home: Path) -> None:
    done = await _start(backend, home, "db-init", ("db", "init"))
    while (code := await done.exit_code()) is None:  # noqa: ASYNC110 - another process ends it, not a task of ours
        await asyncio.sleep(0.05)
    if code != 0:
        raise InfrastructureError(f"`kinitro db init` failed:\n{await done.logs(12)}", code="service_ended")
    await done.stop()


@asynccontextmanager
async def _services(
    backend: Backend, home: Path, key: str, options: DemoOptions, *, images: bool
) -> AsyncIterator[Services]:
    api = await _start(backend, home, "api", ("api", "--port", "{port}"), {"KINITRO_API_API_KEY": key})
    scheduler = await _start(
        backend,
        home,
        "scheduler",
        (
            *("scheduler", "--network", "dev", "--netuid", str(NETUID), "--eval-interval", NEXT_CYCLE_S),
            *("--episodes-per-env", str(options.episodes), "--environments", ",".join(ENVIRONMENTS)),
        ),
    )
    executor = await _start(
        backend,
        home,
        "executor",
        ("executor", "--api-url", api.url, "--eval-mode", "process", "--poll-interval", "0.5", "--executor-id", "demo"),
        {
            "KINITRO_EXECUTOR_API_KEY": key,
            "KINITRO_EXECUTOR_MAX_TIMESTEPS": str(MAX_TIMESTEPS),
            "KINITRO_EXECUTOR_USE_IMAGES": str(images),
        },
    )
    try:
        yield Services(api, scheduler, executor)
    finally:
        # The executor first: it hands back what it has not finished. Then who it talks to.
        for running in (executor, scheduler, api):
            await running.stop(grace_s=5.0)


async def _start(
    backend: Backend, home: Path, name: str, arguments: tuple[str, ...], extra: Mapping[str, str] | None = None
) -> Running:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KINITRO_") or name == FORCED}
    return await backend.launch(
        LaunchSpec(
            name=name,
            role=Role.ENVIRONMENT,
            command=(sys.executable, "-m", "kinitro", *arguments),
            # Away from the user's directory, so that no `.env` of theirs takes part.
            directory=home,
            environment={**inherited, "KINITRO_HOME": str(home), **(extra or {})},
            network=NetworkAccess.OPEN,
        )
    )


async def _evaluate(services: Services, home: Path, options: DemoOptions, console: Console) -> None:
    async with KinitroClient(services.api.url) as client:
        await _ready(client, services)
        cycle_id = await watch_cycle(client, services.check, home, console)
        outcome = Outcome(await client.scores(cycle_id), await _weights(client), await client.miners())
        show(console, outcome)
        if options.home is not None:
            await _leave_export(client, cycle_id, options.home, console)
        if options.keep:
            await _stay(services, console)
        else:
            _say_how_to_go_on(console)


async def _ready(client: KinitroClient, services: Services) -> None:
    async with asyncio.timeout(API_READY_S):
        while True:
            await services.check()
            try:
                await client.health()
                return
            except (ApiError, ApiUnreachable):
                await asyncio.sleep(0.1)


async def _weights(client: KinitroClient) -> WeightsOut | None:
    try:
        return await client.weights()
    except ApiError as error:
        if error.status_code == 404:
            return None
        raise


async def _stay(services: Services, console: Console) -> None:
    console.print(f"The services stay up; a new cycle starts every two minutes. The API: {services.api.url}/v1/status")
    console.print("Press Ctrl-C to stop them.")
    while True:
        await services.check()
        await asyncio.sleep(1.0)


async def _leave_export(client: KinitroClient, cycle_id: int, home: Path, console: Console) -> None:
    file = home / f"cycle-{cycle_id}.json"
    _, content = await client.export_file(cycle_id)
    file.write_bytes(content)
    console.print(f"The data stays in {home}. Run every episode again and see whether it comes out the same:")
    console.print(
        f"  KINITRO_HOME={home} uv run kinitro replay --all --export {file} --eval-mode process", soft_wrap=True
    )


def _say_how_to_go_on(console: Console) -> None:
    console.print("How to go on:")
    console.print("  uv run kinitro demo --keep     the same, with the services left up to look at")
    console.print(
        "  uv run kinitro demo --home DIR its data kept, to run any episode again and see it (docs/replay.md)"
    )
    console.print("  uv run kinitro env list        the environments policies are evaluated in")
    console.print("  docs/protocol.md               what a policy server must answer")
    console.print("  docs/architecture.md           how it all works")

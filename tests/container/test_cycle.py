"""A whole cycle in Docker mode as an operator runs it, and the same episodes again in process mode."""

import asyncio
import grp
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

import kinitro
from kinitro.chain import DEV_LEDGER_FILE, DevLedger, dev_signer
from kinitro.client import KinitroClient
from kinitro.demo.miners import MINERS, write_folder
from kinitro.deployments.hub import HubPublisher
from kinitro.errors import ApiError, ApiUnreachable
from kinitro.miner.deploy import DeployPlan, deploy
from kinitro.miner.folder import create_folder
from kinitro.schemas import CycleExport, TaskOut
from kinitro.storage import admin
from kinitro.testing.hub import LocalHub, serving
from kinitro.types import CycleStatus, FolderTemplate, TaskStatus

from ..machine import COMMAND, Machine  # noqa: TID252 - one machine for all tests
from .conftest import left_over, until

ENVIRONMENTS = ("metaworld/drawer-close-v3", "metaworld/reach-v3")
EPISODES = 2
NETUID = 1
ACCOUNT = "kinitro-ordinary"
EPISODE = {"USE_IMAGES": "false", "MAX_TIMESTEPS": "120", "ACTION_TIMEOUT": "20", "EVAL_TIMEOUT": "120"}
"""No pictures, and time enough: a slow machine must not decide what a deterministic policy comes to."""


@dataclass(frozen=True)
class Operator:
    """Who runs the executor: a user that is not root, and how it starts our commands."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: Path
    command: tuple[str, ...]
    path: str


@pytest.fixture(scope="module")
def operator() -> Iterator[Operator]:
    """An ordinary user of the docker group: made here when we are root, ourselves when we are not."""
    if os.geteuid() != 0:
        yield Operator(os.geteuid(), os.getegid(), tuple(os.getgroups()), Path.home(), COMMAND, "")
        return
    group = Path("/var/run/docker.sock").stat().st_gid
    assert group != 0, "the engine's socket has no group of its own: install docker.io, which makes it, and restart it"
    remove_account()  # of a run that was killed
    subprocess.run(["useradd", "--create-home", "--groups", grp.getgrgid(group).gr_name, ACCOUNT], check=True)
    account = pwd.getpwnam(ACCOUNT)
    with tempfile.TemporaryDirectory(prefix="kinitro-installed-") as made:
        path = install_for_others(Path(made))
        command = (python_for_others(), "-P", "-m", "kinitro")
        yield Operator(account.pw_uid, account.pw_gid, (group,), Path(account.pw_dir), command, path)
    remove_account()


def remove_account() -> None:
    subprocess.run(["userdel", "--remove", ACCOUNT], check=False, capture_output=True)


def python_for_others() -> str:
    """A Python of this version that every user may run: ours may lie in root's home."""
    ours = Path(sys.executable).resolve()
    for path in (ours, Path("/usr/bin") / f"python3.{sys.version_info.minor}"):
        if path.exists() and all(above.stat().st_mode & stat.S_IXOTH for above in (path, *path.parents)):
            return str(path)
    pytest.skip(f"only root may run this Python ({ours}), and there is no python3.{sys.version_info.minor} in /usr/bin")


def install_for_others(folder: Path) -> str:
    """What is installed here, where every user may read it: the checkout may lie in root's home. A PYTHONPATH."""
    folder.chmod(0o755)
    shutil.copytree(Path(kinitro.__file__).parent, folder / "source" / "kinitro")
    shutil.copytree(sysconfig.get_path("purelib"), folder / "packages", copy_function=link_or_copy)
    return f"{folder / 'source'}:{folder / 'packages'}"


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@pytest.fixture
def state() -> Iterator[Path]:
    """Not below pytest's own folder, which each pytest that starts shuts for PostgreSQL's account."""
    with tempfile.TemporaryDirectory(prefix="kinitro-cycle-") as made:
        yield Path(made)


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalHub]:
    """The hub that every service asks."""
    hub = LocalHub(tmp_path / "hub", {"hf_demo": "demo"})
    async with serving(hub) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield hub


@pytest.fixture
def machine(state: Path) -> Iterator[Machine]:
    made = Machine(state)
    yield made
    made.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def deploy_five_miners(home: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bundled policies and the template, uploaded to the hub and committed by `miner deploy`."""
    monkeypatch.setenv("HF_TOKEN", "hf_demo")
    ledger = DevLedger(home / DEV_LEDGER_FILE)
    for miner in MINERS[:4]:
        write_folder(miner, scratch / miner.name)
    create_folder(scratch / "template", FolderTemplate.MINIMAL)
    for name in (*(miner.name for miner in MINERS[:4]), "template"):
        signer = dev_signer("tests", name)
        await ledger.register(NETUID, signer.ss58_address)
        plan = DeployPlan(f"demo/{name}", scratch / name, NETUID)
        await deploy(plan, ledger, signer, HubPublisher(), lambda _: None)
    await ledger.close()
    monkeypatch.delenv("HF_TOKEN")


def start_services(machine: Machine, operator: Operator) -> str:
    """The guide's three commands, and the API's address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    network = ("--network", "dev", "--netuid", str(NETUID), "--eval-interval", "3600")
    what = ("--episodes-per-env", str(EPISODES), "--environments", ",".join(ENVIRONMENTS))
    machine.start("api", "api", "--port", str(port))
    machine.start("scheduler", "scheduler", *network, *what)
    own = {"HOME": str(operator.home), "KINITRO_HOME": str(operator.home / "kinitro"), "PYTHONPATH": operator.path}
    own |= {f"KINITRO_EXECUTOR_{name}": value for name, value in EPISODE.items()}
    own |= {"KINITRO_EXECUTOR_MINER_DEPLOYMENT_MEMORY": "1g", "TMPDIR": tempfile.gettempdir()}
    machine.start(
        "executor",
        *("executor", "--api-url", url, "--batch-size", "4", "--poll-interval", "0.5", "--max-concurrent", "2"),
        command=operator.command,
        variables=own,
        cwd=operator.home,
        user=operator.uid,
        group=operator.gid,
        extra_groups=operator.groups,
    )
    return url


async def completed_cycle(client: KinitroClient, machine: Machine) -> CycleExport:
    while True:
        for name, process in machine.running.items():
            assert process.poll() is None, f"the {name} ended\n{machine.logs()}"
        try:
            closed = [cycle for cycle in await client.cycles() if cycle.completed_at is not None]
        except (ApiError, ApiUnreachable):
            closed = []
        if closed:
            assert closed[-1].status is CycleStatus.COMPLETED, closed[-1].failure_reason
            return await client.export(closed[-1].id)
        await asyncio.sleep(0.3)


def tasks_of(cycle: CycleExport) -> list[TaskOut]:
    """The cycle's own episodes, seeds and all, to be run again."""
    miners = {miner.uid: miner for miner in cycle.miners}
    return [
        TaskOut(
            task_uuid=episode.task_uuid, lease_token=uuid4(), lease_expires_at=datetime.now(UTC), cycle_id=1,
            miner_uid=episode.uid, miner_hotkey=miners[episode.uid].hotkey, miner_repo=miners[episode.uid].repo,
            miner_revision=miners[episode.uid].revision, env_id=episode.env_id, seed=episode.seed,
            policy_seed=episode.policy_seed, status=TaskStatus.PENDING, created_at=datetime.now(UTC),
        )
        for episode in cycle.episodes
    ]  # fmt: skip


@pytest.mark.timeout(420)
async def test_an_ordinary_users_cycle_from_the_hub_comes_to_process_modes_verdicts_seed_for_seed(
    hub, api, run_executor, machine, operator, state, tmp_path, monkeypatch
) -> None:
    await deploy_five_miners(machine.home, tmp_path / "policies", monkeypatch)
    await admin.init(None)
    async with KinitroClient(start_services(machine, operator)) as client:
        try:
            async with asyncio.timeout(240):
                cycle = await completed_cycle(client, machine)
        except TimeoutError:
            pytest.fail(f"the cycle was not completed in time\n{machine.logs()}")
        weights = await client.weights()
    machine.stop()
    assert left_over() == []
    assert (len(cycle.miners), len(cycle.episodes)) == (5, 5 * len(ENVIRONMENTS) * EPISODES)
    assert sum(weights.weights.values()) == pytest.approx(1.0)
    assert {episode.image_digest for episode in cycle.episodes} != {None}
    assert (operator.home / "kinitro" / "snapshots").stat().st_uid == operator.uid != 0

    api.pending = tasks_of(cycle)
    changes = {name.lower(): value for name, value in EPISODE.items()}
    async with run_executor(eval_mode="process", **changes):
        await until(lambda: {episode.task_uuid for episode in cycle.episodes} <= set(api.results), 150)
    for episode in cycle.episodes:
        again = api.results[episode.task_uuid]
        assert (episode.success, episode.error_kind, episode.timesteps, episode.total_reward, episode.trace_digest) == (
            again.success, again.error_kind, again.timesteps, again.total_reward, again.trace_digest,
        ), (episode, again)  # fmt: skip
        assert episode.tree_digest == again.tree_digest
    assert {episode.success for episode in cycle.episodes} == {True, False}

"""From `miner init` to a verdict, with the hub's real client."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from kinitro.backends import ProcessBackend
from kinitro.chain import DevLedger, dev_signer
from kinitro.deployments import DeploymentManager, DeploymentSettings, SnapshotStore, tree_digest
from kinitro.deployments.hub import HubPublisher, HuggingFaceHub
from kinitro.deployments.limits import HubLimits
from kinitro.environments.workers import EnvironmentLaunch, EnvironmentWorkers
from kinitro.executor.episodes import EpisodeRunner, EpisodeSettings
from kinitro.miner.check import check_policy
from kinitro.miner.deploy import DeployPlan, deploy
from kinitro.schemas import TaskOut
from kinitro.testing.hub import HubFault, LocalHub
from kinitro.types import ErrorKind, PolicyRef, TaskStatus

ME = dev_signer("wallet", "me")
LOOKER = """
import json, os, pathlib
found = []
for entry in [pathlib.Path("/proc/self"), *pathlib.Path("/proc").glob("[0-9]*")]:
    # Its own process and those above it: what it was started with.
    if entry.name in ("self", str(os.getppid())):
        found += [(entry / name).read_text(errors="replace") for name in ("environ", "cmdline")]
found += [path.read_text(errors="replace") for path in pathlib.Path.home().rglob("*") if path.is_file()]
found += [path.read_text(errors="replace") for path in pathlib.Path(".").rglob("*") if path.is_file()]
raise SystemExit("I found " + ("A TOKEN" if any("hf_" + "mine" in text for text in found) else "nothing")
    + f" in {len(found)} places")
"""


def task(ref: PolicyRef, uid: int = 1) -> TaskOut:
    return TaskOut(
        task_uuid=uuid4(), lease_token=uuid4(), lease_expires_at=datetime.now(UTC), cycle_id=1, miner_uid=uid,
        miner_hotkey=ME.ss58_address, miner_repo=ref.repo, miner_revision=ref.revision, env_id="line/reach-v0",
        seed=3, policy_seed=4, status=TaskStatus.PENDING, created_at=datetime.now(UTC),
    )  # fmt: skip


@pytest.fixture
async def runner(tmp_path: Path, hub: LocalHub, line_server: tuple[str, ...]):
    """An executor's own parts, with the hub's token."""
    limits = HubLimits(deadline_s=10.0, attempts=1)
    store = SnapshotStore(tmp_path / "cache", HuggingFaceHub(SecretStr("hf_mine"), limits))
    async with (
        ProcessBackend() as backend,
        DeploymentManager(backend, store, DeploymentSettings(warmup_timeout_s=20.0)) as deployments,
        EnvironmentWorkers(backend, 4, EnvironmentLaunch(line_server)) as workers,
    ):
        yield EpisodeRunner(deployments, workers, EpisodeSettings(action_timeout_s=2.0, timeout_s=20.0))


async def deployed(folder: Path, ledger: DevLedger, repo: str = "me/policy", *, private: bool = False) -> PolicyRef:
    plan = DeployPlan(repo, folder, 1, keep_private=private)
    return (await deploy(plan, ledger, ME, HubPublisher(), lambda _: None)).ref


async def test_a_policy_goes_from_its_folder_to_a_verdict(folder: Path, plan, hub, ledger, runner, tmp_path) -> None:
    assert (await check_policy(folder, plan(episodes=1))).ready
    ref = await deployed(folder, ledger)
    outcomes = await asyncio.gather(*(runner.run(task(ref)) for _ in range(10)))
    assert {(outcome.result.success, outcome.result.error) for outcome in outcomes} == {(True, None)}
    cached = tmp_path / "cache" / "me--policy" / ref.revision
    assert {outcome.result.tree_digest for outcome in outcomes} == {tree_digest(cached)}
    assert json.loads((cached / "kinitro.json").read_text()) == {"hotkey": ME.ss58_address}
    fetched = [
        path
        for method, path, _ in hub.seen
        if method == "GET" and path.endswith("resolve/" + ref.revision + "/policy.py")
    ]
    assert len(fetched) == 1, "ten that ask at once share one download"
    hub.faults.append(HubFault(503))
    assert (await runner.run(task(ref))).result.success, "a cached revision needs no hub"


async def test_two_miners_with_the_same_files_have_the_same_digest(folder: Path, hub, ledger, runner) -> None:
    refs = [await deployed(folder, ledger, repo) for repo in ("me/one", "me/two")]
    (folder / "README.md").write_text("# Mine, really\n")
    refs.append(await deployed(folder, ledger, "me/three"))
    results = [(await runner.run(task(ref))).result for ref in refs]
    assert len({result.tree_digest for result in results}) == 1


async def test_a_private_repo_is_evaluated_with_the_operators_token_and_no_policy_can_find_it(
    folder: Path, hub, ledger, runner
) -> None:
    (folder / "policy.py").write_text(LOOKER)
    ref = await deployed(folder, ledger, private=True)
    result = (await runner.run(task(ref))).result
    assert result.error_kind is ErrorKind.POLICY
    assert "I found nothing in" in result.error


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "policy.py").write_text("raise RuntimeError('no weights')"), "no weights"),
        (lambda folder: (folder / "requirements.txt").write_text("git+https://host/x"), "line 1, 'git+https://host/x'"),
        (lambda folder: (folder / "server.py").unlink(), "server.py"),
    ],
    ids=["crashes at import", "requirements", "no server"],
)
async def test_a_policy_that_can_not_start_fails_alone(folder, hub, ledger, runner, spoil, words) -> None:
    good = await deployed(folder, ledger, "me/good")
    spoil(folder)
    bad = await deployed(folder, ledger, "me/bad")
    broken, fine = await asyncio.gather(runner.run(task(bad)), runner.run(task(good, uid=2)))
    assert broken.result.error_kind is ErrorKind.POLICY
    assert words in broken.result.error
    assert fine.result.success


async def test_whose_fault_a_missing_repo_is(hub: LocalHub, runner) -> None:
    gone = PolicyRef("me/gone", "0" * 40)
    assert (await runner.run(task(gone))).result.error_kind is ErrorKind.POLICY
    hub.faults.append(HubFault(429))
    limited = (await runner.run(task(PolicyRef("me/other", "0" * 40)))).result
    assert limited.error_kind is ErrorKind.INFRASTRUCTURE
    assert "slow down" in limited.error
    hub.faults[:] = [HubFault(401)]
    refused = await runner.run(task(PolicyRef("me/third", "0" * 40)))
    assert (refused.result.error_kind, refused.fault) == (ErrorKind.INFRASTRUCTURE, "hub_refused")

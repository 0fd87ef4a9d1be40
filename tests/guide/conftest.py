"""One machine for the run, and one walk through the guide on it; the tests look at what came of it."""

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from kinitro.schemas import ResultIn
from kinitro.types import PolicyRef

from ..integration.executor.fake_api import FakeApi  # noqa: TID252 - one stand-in for all
from . import guide
from .machine import API, READER, Machine, docker, inspected, missing, new_machine
from .terminal import Terminal


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    # Else a run that takes too long would leave a PostgreSQL behind, and the next could not begin.
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("told to end", returncode=143))
    with new_machine() as machine:
        yield machine
    signal.signal(signal.SIGTERM, before)
    assert docker("ps", "-aq", "--filter", "label=kinitro.run") == "", "a container of ours was left"


@dataclass
class Walk:
    """What was seen on the way from Step 1 to Step 6. Engine's accounts are of the first cycle's containers."""

    built: dict[str, str] = field(default_factory=dict)
    before_commitment: list[str] = field(default_factory=list)
    deployed: str = ""
    after_commitment: str = ""
    api: Terminal | None = None
    scheduler: Terminal | None = None
    executor: Terminal | None = None
    policies: list[dict] = field(default_factory=list)
    environments: list[dict] = field(default_factory=list)
    monitored: dict[str, str] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="session")
def walk(machine: Machine) -> Walk:
    """The guide, Step 1 to Step 6, as it is written."""
    walk = Walk()
    for build in (guide.BUILD_METAWORLD, guide.BUILD_MINER):
        walk.built[build] = machine.run(build, timeout_s=600)
    machine.run(guide.RESET)
    walk.before_commitment = _without_commitment(machine)
    walk.deployed = machine.run(guide.DEPLOY)
    walk.after_commitment = machine.run(guide.SHOW_COMMITMENT)
    with (
        machine.terminal(guide.API) as walk.api,
        machine.terminal(guide.SCHEDULER) as walk.scheduler,
        machine.terminal(guide.EXECUTOR) as walk.executor,
    ):
        walk.executor.until("task_executed")
        walk.policies, walk.environments = inspected("policy"), inspected("environment")
        walk.monitored["during"] = machine.run(guide.MONITOR)
        walk.scheduler.until("cycle_completed", 300)
        walk.monitored["after"] = machine.run(guide.MONITOR)
        walk.scheduler.until("cycle_planned", 120, count=2)
        walk.executor.until("task_executed", 300, count=17)
        for name in ("executor", "scheduler", "api"):
            walk.ended[name] = getattr(walk, name).stop()
    return walk


def _without_commitment(machine: Machine) -> list[str]:
    """What scheduler and `show-commitment` say while nobody has committed."""
    with machine.terminal(guide.SCHEDULER) as scheduler:
        said = scheduler.until("No miners")
        scheduler.stop()
    return [said, machine.run(guide.SHOW_COMMITMENT)]


class Bench:
    """An executor, started by the guide's command, at a stand-in of the API that hands out one's own tasks."""

    def __init__(self, machine: Machine, api: FakeApi, home: Path) -> None:
        self.machine = machine
        self.api = api
        self._home = home

    @contextmanager
    def executor(self, flags: str = "", command: str = guide.EXECUTOR, **variables: str) -> Iterator[Terminal]:
        """The command with `flags` after it and more variables set; at the end it is stopped by Ctrl-C."""
        own = {"KINITRO_HOME": tempfile.mkdtemp(dir=self._home), "KINITRO_EXECUTOR_POLL_INTERVAL_SECONDS": "0.3"}
        self.machine.portal.call(self.api.come)
        try:
            with self.machine.terminal(f"{command.rstrip()} {flags}\n", **own | variables) as terminal:
                yield terminal
        finally:
            self.machine.portal.call(self.api.go)

    def add(self, ref: PolicyRef, env_id: str = "metaworld/drawer-close-v3") -> UUID:
        (task,) = self.api.add(ref, env_id=env_id)
        return task

    def result(self, task: UUID, timeout_s: float = 90.0) -> ResultIn:
        until(lambda: task in self.api.results, timeout_s)
        return self.api.results[task]


@pytest.fixture(scope="session")
def bench(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    api = FakeApi(API)
    api.lease_s = 30.0
    machine.portal.call(api.go)  # it comes with each executor: the guide's own API wants the port too
    return Bench(machine, api, tmp_path_factory.mktemp("homes"))


@dataclass
class Changed:
    """What was seen of an executor with every variable of the table at something else than its default."""

    good: UUID
    private: UUID
    broken: UUID
    never: UUID
    image: str = "kinitro/guide-runner:v9"
    ttl_s: int = 5
    warmup_s: int = 4
    policies: list[dict] = field(default_factory=list)
    environments: list[dict] = field(default_factory=list)
    gone_at: float = 0.0
    shown: str = ""


@pytest.fixture(scope="session")
def changed(machine: Machine, bench: Bench) -> Changed:
    """An executor with other settings than the defaults, and policies that show it."""
    upload = machine.upload
    policies = {
        "good": upload("good"),
        "private": upload("private", private=True),
        "broken": upload("broken", policy="raise RuntimeError('no weights')"),
        "never": upload("never", server="import time\n\ntime.sleep(600)\n"),
    }
    changed = Changed(**{name: bench.add(ref) for name, ref in policies.items()})
    docker("tag", "kinitro/miner-runner:v1", changed.image)
    prefix = "KINITRO_EXECUTOR_MINER_DEPLOYMENT_"
    variables = {f"{prefix}IMAGE": changed.image, f"{prefix}TTL_SECONDS": str(changed.ttl_s)}
    variables |= {f"{prefix}WARMUP_TIMEOUT": str(changed.warmup_s), "KINITRO_EXECUTOR_EVAL_MEM_LIMIT": "2g"}
    try:
        with bench.executor(HF_TOKEN=READER, **variables) as executor:
            bench.result(changed.good)
            changed.policies, changed.environments = inspected("policy"), inspected("environment")
            for task in (changed.private, changed.broken, changed.never):
                bench.result(task)
            until(lambda: not inspected("policy"))
            changed.gone_at = _last_end(policies["good"])
        changed.shown = executor.shown
    finally:
        docker("rmi", changed.image)
    return changed


def _last_end(ref: PolicyRef) -> float:
    """When the last container of a policy ended, by the engine's clock."""
    now = int(time.time())
    # In whole seconds, of which this one is not over.
    during = ("--since", str(now - 300), "--until", str(now + 1))
    which = ("--filter", "event=die", "--filter", f"label=revision={ref.revision}")
    return float(docker("events", *during, *which, "--format", "{{.TimeNano}}").split()[-1]) / 1e9


def until(condition: Callable[[], object], timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)

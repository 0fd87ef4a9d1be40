"""What a miner finds out before paying for anything: would this folder be evaluated, and how would it do?

The policy runs here as an executor in process mode runs it, without isolation: a miner trusts their own.
"""

import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from kinitro.backends import Backend, LaunchSpec, Limits, ProcessBackend, Role
from kinitro.deployments.limits import HubLimits
from kinitro.deployments.readiness import until_ready
from kinitro.deployments.requirements import FILE_NAME, Requirement, canonical_name, read_requirements
from kinitro.environments.base import EnvironmentSpec
from kinitro.environments.protocol import EvaluateReply, EvaluateRequest
from kinitro.environments.workers import ENVIRONMENT_SERVER, EnvironmentLaunch, EnvironmentWorkers
from kinitro.errors import InfrastructureError, PolicyError
from kinitro.miner.files import check_files, stage
from kinitro.miner.findings import Finding, Report, Verdict
from kinitro.miner.lock import WANTED_FILE, unlocked
from kinitro.miner.rehearsal import Rehearsal
from kinitro.settings import MinerSettings

_SIMULATOR_START_S = 60.0
_NO_MODULE = re.compile(r"^ModuleNotFoundError: No module named '(\w+)", re.MULTILINE)
_POLICY = ("server.py", "--host", "{host}", "--port", "{port}")


@dataclass(frozen=True)
class CheckPlan:
    """What is tried. `counted` is how many environments a cycle has; `environments` are those tried here, in turn."""

    environments: Sequence[EnvironmentSpec]
    episodes: int
    counted: int
    settings: MinerSettings = field(default_factory=MinerSettings)
    environment_server: Sequence[str] = ENVIRONMENT_SERVER


async def check_policy(folder: Path, plan: CheckPlan, tell: Callable[[Finding], None] = lambda _: None) -> Report:
    """Checks a policy folder; `tell` hears of each finding as it is made.

    Raises `ConfigurationError` when there is no such folder; what is wrong with the policy is in the report.
    """
    return await _Check(folder, plan, tell).run()


class _Check:
    """One check as it goes on. Later parts need what earlier ones found in order."""

    def __init__(self, folder: Path, plan: CheckPlan, tell: Callable[[Finding], None]) -> None:
        self._folder = folder
        self._plan = plan
        self._tell = tell
        self._findings: list[Finding] = []

    async def run(self) -> Report:
        self._add(*check_files(self._folder, HubLimits.chosen()))
        self._add(_requirements(self._folder))
        if not any(found.subject == "files" and found.verdict is Verdict.FIX for found in self._findings):
            await self._run_it()
        return Report(tuple(self._findings))

    def _add(self, *findings: Finding) -> None:
        for finding in findings:
            self._findings.append(finding)
            self._tell(finding)

    async def _run_it(self) -> None:
        with _staged(self._folder) as folder:
            async with ProcessBackend() as backend:
                running = await backend.launch(
                    LaunchSpec(
                        "The policy",
                        Role.POLICY,
                        (sys.executable, *_POLICY),
                        folder,
                        limits=Limits(memory_bytes=4 * 1024**3, cpus=1.0),
                    )
                )
                try:
                    health = await until_ready(running, self._plan.settings.warmup_timeout)
                except PolicyError as error:
                    self._add(
                        _missing_module(error.message, self._folder) or Finding(Verdict.FIX, "start", error.message)
                    )
                    return
                self._add(Finding(Verdict.GOOD, "start", "healthy, its model loaded"))
                spec, timeout_s = self._plan.environments[0], self._plan.settings.action_timeout
                self._add(*await Rehearsal(running.url, spec, health, timeout_s).findings())
                await self._evaluate(backend, running.url)

    async def _evaluate(self, backend: Backend, url: str) -> None:
        """Real episodes, as an executor runs them."""
        replies: list[EvaluateReply] = []
        broken: set[str] = set()
        async with EnvironmentWorkers(backend, 1, EnvironmentLaunch(self._plan.environment_server)) as workers:
            for number in range(self._plan.episodes):
                spec = self._plan.environments[number % len(self._plan.environments)]
                if spec.env_id in broken:
                    continue
                try:
                    async with workers.lease(spec.env_id) as server:
                        request = self._request(url, spec, number)
                        reply = await server.evaluate(request, request.longest_s + _SIMULATOR_START_S)
                except InfrastructureError as error:
                    self._add(Finding(Verdict.SKIPPED, spec.env_id, error.message))
                    return
                finding = _episode(spec, reply)
                self._add(finding)
                if finding.verdict is Verdict.SKIPPED:
                    broken.add(spec.env_id)
                    continue
                replies.append(reply)
        if replies:
            self._add(_budget(replies, self._plan))

    def _request(self, url: str, spec: EnvironmentSpec, number: int) -> EvaluateRequest:
        settings = self._plan.settings
        return EvaluateRequest(
            task_id=str(uuid4()),
            seed=number,
            policy_seed=number,
            base_url=url,
            env_id=spec.env_id,
            max_timesteps=settings.max_timesteps,
            action_timeout=settings.action_timeout,
            timeout=settings.eval_timeout,
        )


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder of exactly what would be uploaded: what is left out must not be needed."""
    with tempfile.TemporaryDirectory(prefix="kinitro-check-", ignore_cleanup_errors=True) as scratch:
        staged = Path(scratch) / "policy"
        staged.mkdir()
        stage(folder, staged)
        yield staged


def _requirements(folder: Path) -> Finding:
    try:
        wanted = read_requirements(folder)
    except PolicyError as error:
        return Finding(Verdict.FIX, "requirements", str(error))
    if open_wishes := unlocked(folder, wanted):
        return Finding(
            Verdict.FIX,
            "requirements",
            f"{WANTED_FILE} names {', '.join(open_wishes)}, and {FILE_NAME} does not: lock it with "
            f"`kinitro miner check {folder} --lock`",
        )
    if not wanted:
        return Finding(Verdict.GOOD, "requirements", "nothing beyond what every policy finds installed")
    return Finding(
        Verdict.NOTE,
        "requirements",
        f"{len(wanted)} packages, locked. Here the policy runs with those that are installed already",
    )


def _missing_module(message: str, folder: Path) -> Finding | None:
    """For a start that failed because this Python lacks a package; where it is evaluated it may well be there."""
    found = _NO_MODULE.search(message)
    if found is None or (folder / f"{found[1]}.py").exists():
        return None
    locked = {each.key for each in _locked(folder)}
    text = f"the policy imports {found[1]}, which is not installed here: install it in this Python ({sys.executable})"
    if canonical_name(found[1]) in locked:
        return Finding(Verdict.SKIPPED, "start", f"{text} to check here")
    # A package may bring a module of another name: opencv-python brings cv2.
    return Finding(Verdict.FIX, "start", f"{text} to check here, and see that {WANTED_FILE} names what brings it")


def _locked(folder: Path) -> tuple[Requirement, ...]:
    try:
        return read_requirements(folder)
    except PolicyError:
        return ()


def _episode(spec: EnvironmentSpec, reply: EvaluateReply) -> Finding:
    extra = reply.extra
    if reply.error is not None:
        verdict = Verdict.FIX if reply.error_kind == "policy" else Verdict.SKIPPED
        return Finding(verdict, spec.env_id, reply.error)
    outcome = "solved" if reply.success else "not solved"
    return Finding(
        Verdict.GOOD,
        spec.env_id,
        f"{outcome} in {extra.timesteps} steps; an action takes {extra.mean_action_time * 1000:.1f} ms, "
        f"at worst {extra.max_action_time * 1000:.1f} ms",
    )


def _budget(replies: Sequence[EvaluateReply], plan: CheckPlan) -> Finding:
    """Whether a whole cycle's waits for this policy fit its time budget."""
    settings = plan.settings
    episodes = settings.episodes_per_env * plan.counted
    expected = episodes * sum(reply.extra.policy_seconds for reply in replies) / len(replies)
    text = (
        f"a cycle of {episodes} episodes would wait about {expected:.0f} s for the policy; "
        f"{settings.time_budget_seconds:.0f} s are allowed"
    )
    if expected > settings.time_budget_seconds:
        return Finding(Verdict.FIX, "time budget", f"{text}. Every episode past that counts as failed (too_slow)")
    return Finding(Verdict.GOOD, "time budget", text)

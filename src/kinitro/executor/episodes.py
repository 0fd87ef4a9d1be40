"""One task from its policy to its result: where whose fault a failure is gets decided (contracts section 3)."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from uuid import uuid4

from kinitro.backends.base import Running
from kinitro.deployments import Deployment, DeploymentManager
from kinitro.environments.protocol import EvaluateReply, EvaluateRequest
from kinitro.environments.workers import EnvironmentWorkers
from kinitro.errors import EnvironmentFault, InfrastructureError, PolicyError
from kinitro.executor.records import EpisodeSettings, StepsKeeper, make_record
from kinitro.logs import get_logger, mask
from kinitro.schemas import EpisodeRecord, ResultIn, TaskOut
from kinitro.types import EpisodeResult, ErrorKind, PolicyRef

_log = get_logger("executor")
_GRACE_S = 30.0  # beyond the episode's own time: building a simulator, and the policy's health
_MAX_ERROR = 4000


@dataclass(frozen=True)
class Outcome:
    """What a task came to. `fault` is the kind of infrastructure failure, None when there is a verdict.

    `record` is what is kept of an episode that ran; None when none did.
    """

    result: EpisodeResult
    record: EpisodeRecord | None = None
    fault: str | None = None
    code: str | None = None
    """The error's own code, where there is one."""


class EpisodeRunner:
    """Runs one task at a time for each caller; never raises but for cancellation.

    `versions` are the environments' own, by id: what this executor's code says they are.
    """

    def __init__(
        self,
        deployments: DeploymentManager,
        workers: EnvironmentWorkers,
        settings: EpisodeSettings,
        versions: Mapping[str, str] | None = None,
        keeper: StepsKeeper | None = None,
    ) -> None:
        self._deployments = deployments
        self._workers = workers
        self._settings = settings
        self._versions = versions or {}
        self._keeper = keeper or StepsKeeper(None)

    async def run(self, task: TaskOut, on_deployed: Callable[[], None] = lambda: None) -> Outcome:
        """The task's outcome. `on_deployed` is called when its policy is up."""
        outcome = await self._run(task, on_deployed)
        if outcome.record is None:
            return outcome
        return replace(outcome, record=await self._keeper.keep(task, outcome.record))

    async def _run(self, task: TaskOut, on_deployed: Callable[[], None]) -> Outcome:
        try:
            if task.miner_endpoint is not None:
                on_deployed()
                return self._outcome(task, await self._evaluate(task, task.miner_endpoint), None)
            ref = PolicyRef(task.miner_repo, task.miner_revision)
            async with self._deployments.lease(ref, task.miner_uid) as deployment:
                on_deployed()
                return await self._on_deployment(task, deployment)
        except PolicyError as error:
            return Outcome(self._billed(task, _failed(error, ErrorKind.POLICY)), code=error.code)
        except InfrastructureError as error:
            _log.warning("infrastructure_fault", task_uuid=str(task.task_uuid), code=error.code, error=str(error))
            return Outcome(_failed(error, ErrorKind.INFRASTRUCTURE), fault=error.code)
        except Exception as error:  # noqa: BLE001 - the outermost turn of this service's loop
            # What nobody foresaw is ours, and goes into the log in full.
            _log.exception("task_failed_unexpectedly", task_uuid=str(task.task_uuid))
            return Outcome(_failed(f"{type(error).__name__}: {error}", ErrorKind.INFRASTRUCTURE), fault="unexpected")

    async def _on_deployment(self, task: TaskOut, deployment: Deployment) -> Outcome:
        reply = await self._evaluate(task, deployment.url, deployment.running)
        if reply.error_kind is not None:
            await self._deployments.probe(deployment, reply.error_kind)
        if reply.error_kind is ErrorKind.INFRASTRUCTURE:
            self._deployments.retire(deployment)
        try:
            await self._deployments.verify(deployment)
        except PolicyError as error:
            # After the first healthy reply any exit is the policy's, whatever the episode saw of it.
            result = replace(reply.result(), success=False, score=0.0, error_kind=ErrorKind.POLICY, error=_clean(error))
            record = make_record(reply, self._settings, deployment).model_copy(update={"error_code": error.code})
            return Outcome(self._marked(task, result, deployment), record, code=error.code)
        return self._outcome(task, reply, deployment)

    async def _evaluate(self, task: TaskOut, base_url: str, policy: Running | None = None) -> EvaluateReply:
        settings = self._settings
        request = EvaluateRequest(
            task_id=str(uuid4()),
            seed=task.seed,
            policy_seed=task.policy_seed,
            base_url=base_url,
            env_id=task.env_id,
            max_timesteps=settings.max_timesteps,
            action_timeout=settings.action_timeout_s,
            use_images=settings.use_images,
            timeout=settings.timeout_s,
            model=task.miner_repo[:300],
            authorization=policy.authorization if policy else None,
        )
        async with self._workers.lease(task.env_id, policy) as server:
            reply = await server.evaluate(request, request.longest_s + _GRACE_S)
        check_version(reply, self._versions.get(task.env_id))
        return reply

    def _outcome(self, task: TaskOut, reply: EvaluateReply, deployment: Deployment | None) -> Outcome:
        result = self._marked(task, reply.result(), deployment)
        if result.error is not None:
            result = replace(result, error=_clean(result.error))
        infrastructure = result.error_kind is ErrorKind.INFRASTRUCTURE
        code = reply.extra.error_code
        if infrastructure:
            return Outcome(result, fault=code or "environment", code=code)
        return Outcome(result, make_record(reply, self._settings, deployment), code=code)

    def _marked(self, task: TaskOut, result: EpisodeResult, deployment: Deployment | None) -> EpisodeResult:
        """The result with what it ran from: the policy's files and the environment's image."""
        tree_digest = deployment.tree_digest if deployment else None
        if deployment is not None:
            result = self._billed(task, result)
        return replace(result, tree_digest=tree_digest, image_digest=self._workers.image_digest(task.env_id))

    def _billed(self, task: TaskOut, result: EpisodeResult) -> EpisodeResult:
        """The result with the starts of its policy's server that were of its own making."""
        starts_s = self._deployments.bill_starts(PolicyRef(task.miner_repo, task.miner_revision))
        return replace(result, policy_seconds=(result.policy_seconds or 0.0) + starts_s)


def check_version(reply: EvaluateReply, version: str | None) -> None:
    """Raises `EnvironmentFault` (`environment_version`) when an episode ran in another version than `version`."""
    ran, env_id = reply.extra.environment_version, reply.extra.env_id
    if version is None or ran is None or ran == version:
        return
    raise EnvironmentFault(
        f"The environment server ran {env_id} {ran}, but this executor serves version {version}.",
        code="environment_version",
        advice=f"Rebuild its image with this code: `kinitro env build {env_id.partition('/')[0]}`.",
    )


def submission(task: TaskOut, outcome: Outcome) -> ResultIn:
    """The result under its task's lease, as the API takes it."""
    return ResultIn(
        task_uuid=task.task_uuid, lease_token=task.lease_token, record=outcome.record, **asdict(outcome.result)
    )


def _failed(error: object, kind: ErrorKind) -> EpisodeResult:
    """An episode of which nothing can be said but why it did not run."""
    return EpisodeResult(
        success=False,
        score=0.0,
        total_reward=0.0,
        timesteps=0,
        error=_clean(error),
        error_kind=kind,
        policy_seconds=0.0,
    )


def _clean(error: object) -> str:
    """An error's text fit to be published: it may hold a policy's own output, whatever bytes that was."""
    text = mask(str(error)).encode(errors="replace").decode()
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)[:_MAX_ERROR]

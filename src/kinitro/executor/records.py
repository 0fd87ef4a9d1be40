"""What an executor keeps of an episode, so that it can be run again in a year (docs/replay.md)."""

import base64
from dataclasses import dataclass
from hashlib import sha256

from kinitro.archive import Archive
from kinitro.deployments import Deployment
from kinitro.environments.protocol import EvaluateReply
from kinitro.errors import InfrastructureError
from kinitro.logs import get_logger
from kinitro.schemas import EpisodeConditions, EpisodeRecord, TaskOut

_log = get_logger("executor")


@dataclass(frozen=True)
class EpisodeSettings:
    """What every episode of this executor is run with."""

    max_timesteps: int = 500
    action_timeout_s: float = 0.5
    timeout_s: float = 300.0
    use_images: bool = True
    eval_mode: str = "process"
    policy_image_digest: str | None = None


def make_record(reply: EvaluateReply, settings: EpisodeSettings, deployment: Deployment | None) -> EpisodeRecord:
    """The record of an episode that an environment server ran."""
    extra = reply.extra
    return EpisodeRecord(
        conditions=EpisodeConditions(
            eval_mode=settings.eval_mode,
            environment_version=extra.environment_version,
            simulation=extra.simulation,
            requirements_digest=deployment.requirements_digest if deployment else None,
            policy_image_digest=settings.policy_image_digest,
            max_timesteps=settings.max_timesteps,
            action_timeout_s=settings.action_timeout_s,
            timeout_s=settings.timeout_s,
            use_images=settings.use_images,
        ),
        error_code=extra.error_code,
        facts=extra.facts,
        steps=extra.steps,
        steps_sha256=sha256(extra.steps_bytes()).hexdigest() if extra.steps else None,
    )


class StepsKeeper:
    """Puts the steps of records into an archive, where there is one. What it can't put there stays in the record."""

    def __init__(self, archive: Archive | None) -> None:
        self._archive = archive

    async def keep(self, task: TaskOut, record: EpisodeRecord) -> EpisodeRecord:
        """The record, with the place of its steps instead of them."""
        if self._archive is None or record.steps is None:
            return record
        name = f"cycle-{task.cycle_id}/{task.task_uuid}-{(record.steps_sha256 or '')[:16]}.steps"
        try:
            url = await self._archive.put(name, base64.b64decode(record.steps))
        except InfrastructureError as error:
            _log.warning("steps_not_archived", task_uuid=str(task.task_uuid), error=str(error))
            return record
        return record.model_copy(update={"steps": None, "steps_url": url})

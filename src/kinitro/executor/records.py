"""What an executor keeps of an episode, so that it can be run again in a year (docs/replay.md)."""

from dataclasses import dataclass
from hashlib import sha256

from kinitro.deployments import Deployment
from kinitro.environments.protocol import EvaluateReply
from kinitro.schemas import EpisodeConditions, EpisodeRecord


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

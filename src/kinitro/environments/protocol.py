"""What travels between an executor and an environment server (contracts section 5)."""

import base64
from typing import Annotated

from pydantic import Field, StringConstraints

from kinitro.schemas import Base64, Digest, EnvId, Finite, Message, Name, Request, Simulation
from kinitro.types import EpisodeResult, ErrorKind

SECRET_VARIABLE = "KINITRO_ENVIRONMENT_SECRET"  # noqa: S105 (the variable's name, not a secret)
"""The environment variable that gives a server its secret."""
MAX_ERROR_LENGTH = 4000

Seed = Annotated[int, Field(ge=0, le=0x7FFFFFFF)]
NotNegative = Annotated[Finite, Field(ge=0.0)]


class EvaluateRequest(Request):
    """One episode to run against the policy at `base_url`. `task_id` is shown to the policy; `model` is its name."""

    task_id: Name
    seed: Seed
    policy_seed: Seed
    base_url: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    env_id: EnvId
    max_timesteps: int = Field(default=500, ge=1, le=100_000)
    action_timeout: Finite = Field(default=0.5, gt=0.0, le=3600.0)
    use_images: bool = True
    timeout: Finite = Field(default=300.0, gt=0.0, le=86_400.0)
    model: Annotated[str, StringConstraints(max_length=300)] = ""
    secret: str = Field(default="", max_length=500, repr=False)
    authorization: Annotated[str, StringConstraints(max_length=500, pattern=r"^[\x20-\x7e]+$")] | None = Field(
        default=None, repr=False
    )
    """What goes with every call of the policy as its `Authorization` header, where it listens in public."""
    policy_task_id: Name | None = None
    """What the policy is shown in place of `task_id`, where that is needed for something else."""

    @property
    def longest_s(self) -> float:
        """How long the episode may last: `timeout` is the policy's, and as much is everything else's."""
        return 2 * self.timeout

    def document(self, secret: str) -> dict[str, object]:
        """What a call with this secret sends, as JSON has it. What is not needed is left out."""
        return self.model_copy(update={"secret": secret}).model_dump(mode="json", exclude_none=True)


class EvaluateExtra(Message):
    """The episode in figures. Times in seconds; `facts` is what the seed drew, for the record.

    `steps` is the compact form of what happened (`environments.trace`); absent when it is too large to keep.
    """

    seed: int
    env_id: str
    timesteps: int = Field(ge=0)
    total_reward: Finite
    mean_action_time: NotNegative
    max_action_time: NotNegative
    policy_seconds: NotNegative
    trace_digest: Digest | None = None
    error_code: str | None = None
    environment_version: str | None = None
    facts: dict[str, float | str] = Field(default_factory=dict)
    simulation: Simulation | None = None
    steps: Base64 | None = None

    def steps_bytes(self) -> bytes:
        """The compact form itself; empty when there is none."""
        return base64.b64decode(self.steps or "")


class EvaluateReply(Message):
    """What an episode came to. Has no field `status`: affinetes gives that name a meaning of its own."""

    task_name: str
    score: Finite = Field(ge=0.0, le=1.0)
    success: bool
    time_taken: NotNegative
    error: str | None = Field(default=None, max_length=MAX_ERROR_LENGTH)
    error_kind: ErrorKind | None = None
    extra: EvaluateExtra

    def body(self) -> bytes:
        """The HTTP body. An episode without an error has no field `error`."""
        absent = {name for name in ("error", "error_kind") if getattr(self, name) is None}
        return self.model_dump_json(exclude=absent).encode()

    def result(self) -> EpisodeResult:
        """The same as the record that an executor submits."""
        return EpisodeResult(
            success=self.success,
            score=self.score,
            total_reward=self.extra.total_reward,
            timesteps=self.extra.timesteps,
            error=self.error,
            error_kind=self.error_kind,
            trace_digest=self.extra.trace_digest,
            policy_seconds=self.extra.policy_seconds,
        )


class EnvironmentLine(Message):
    """One environment that a server offers."""

    env_id: str
    task_name: str
    version: str
    needs_images: bool
    default: bool


class EnvironmentList(Message):
    """The answer of `POST /list_environments`."""

    environments: list[EnvironmentLine]


class ServerHealth(Message):
    """The answer of `GET /health`. `busy` while an episode runs."""

    status: str
    busy: bool
    episodes: int = Field(ge=0)

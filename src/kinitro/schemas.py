"""The HTTP API's messages and the export file, shared by server, client, executor, scoring and validators."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from kinitro.types import CycleStatus, ErrorKind, MinerState, TaskStatus

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
EnvId = Annotated[str, StringConstraints(max_length=120, pattern=r"^[a-z0-9_-]+/[A-Za-z0-9._-]+$")]
Digest = Annotated[str, StringConstraints(max_length=200, pattern=r"^[\x21-\x7e]+$")]
# PostgreSQL's text holds everything but NUL.
Text = Annotated[str, StringConstraints(max_length=4000, pattern=r"^[^\x00]*$")]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Uid = Annotated[int, Field(ge=0, le=65535)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

MAX_STEPS_BYTES = 256 * 1024
"""Largest compact form of an episode's steps that is kept. 500 steps of MetaWorld take at most 40 KB."""


def _is_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
    return text


Base64 = Annotated[str, StringConstraints(max_length=4 * -(-MAX_STEPS_BYTES // 3)), AfterValidator(_is_base64)]


class Message(BaseModel):
    """Base of what we send: new fields may be added, so readers ignore what they don't know."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Request(Message):
    """Base of what we are sent: an unknown field is a mistake worth naming."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# Errors


class Problem(Message):
    """The body of an error: what is wrong and what to do."""

    detail: str


class FieldProblem(Message):
    """One field that is not as it must be; `loc` is the way to it, such as `["body", "results", 0, "score"]`."""

    loc: list[str | int]
    msg: str
    type: str


class InvalidRequest(Message):
    """The body of a 422."""

    detail: list[FieldProblem]


# Tasks


class TaskOut(Message):
    """One leased episode. `miner_endpoint` is null when the executor deploys the policy itself."""

    task_uuid: UUID
    lease_token: UUID
    lease_expires_at: datetime
    cycle_id: int
    miner_uid: Uid
    miner_hotkey: str
    miner_endpoint: str | None = None
    miner_repo: str
    miner_revision: str
    env_id: str
    seed: int
    policy_seed: int
    status: TaskStatus
    created_at: datetime


class DeploymentUsage(Request):
    """Deployments of one kind at a cloud service since the executor started: made, existing now, seconds in all."""

    created: int = Field(ge=0, le=10**9)
    alive: int = Field(ge=0, le=10**6)
    seconds: Finite = Field(ge=0.0, le=1e12)


Usage = Annotated[dict[Literal["policy", "environment"], DeploymentUsage], Field(max_length=2)]


class FetchRequest(Request):
    executor_id: Name
    batch_size: int = Field(ge=1, le=100)
    env_ids: list[EnvId] | None = Field(default=None, max_length=1000)
    usage: Usage | None = None
    paused: Reason | None = None
    """Why this executor takes no work now; it is shown in /v1/status, and nothing is handed out."""


class FetchResponse(Message):
    tasks: list[TaskOut]
    total_pending: int


class Simulation(Message):
    """What an environment server ran an episode with. `images`: whether the policy was sent any."""

    kinitro: Label
    architecture: Label
    randomisation: Label
    render_profile: Label
    images: bool
    stack: dict[Label, Label] = Field(default_factory=dict, max_length=40)
    """Versions of Python, simulators and the graphics library."""


class EpisodeConditions(Message):
    """All that an episode ran under besides its seeds, its policy's files and the environment's image.

    Mostly the same for many episodes, and kept once. `simulation` is None when the environment server did not say;
    `policy_image_digest` None when policies run in no image.
    """

    eval_mode: Label
    environment_version: Label | None = None
    simulation: Simulation | None = None
    requirements_digest: Digest | None = None
    policy_image_digest: Digest | None = None
    max_timesteps: int = Field(ge=1)
    action_timeout_s: Finite = Field(gt=0.0)
    timeout_s: Finite = Field(gt=0.0)
    use_images: bool


class EpisodeRecord(Message):
    """What is kept of an episode so that it can be replayed. `facts` is what the environment drew from the seed.

    `steps` is the compact form of its steps; where an executor keeps those itself, `steps_url` says where instead.
    `steps_sha256` is that of the compact form; without it no steps were kept.
    """

    conditions: EpisodeConditions
    error_code: Label | None = None
    facts: dict[Label, Finite | Label] = Field(default_factory=dict, max_length=100)
    steps: Base64 | None = None
    steps_url: Label | None = None
    steps_sha256: Sha256 | None = None


class ResultIn(Request):
    """One episode's outcome under one lease. A success has score 1 and no error; anything else has score 0."""

    task_uuid: UUID
    lease_token: UUID
    success: bool
    score: Finite = Field(ge=0.0, le=1.0)
    total_reward: Finite
    timesteps: int = Field(ge=0, le=10_000_000)
    error: Text | None = None
    error_kind: ErrorKind | None = None
    trace_digest: Digest | None = None
    tree_digest: Digest | None = None
    image_digest: Digest | None = None
    policy_seconds: Finite | None = Field(default=None, ge=0.0, le=1e7)
    record: EpisodeRecord | None = None

    @field_validator("score")
    @classmethod
    def _score_is_the_outcome(cls, score: float, info: ValidationInfo) -> float:
        success = info.data.get("success")
        if success is not None and score != float(success):
            raise ValueError(f"a {'success' if success else 'failure'} has score {float(success)}")
        return score

    @field_validator("error", "error_kind")
    @classmethod
    def _success_has_no_error(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("success"):
            raise ValueError("a success has no error")
        return value


class SubmitRequest(Request):
    executor_id: Name
    results: list[ResultIn] = Field(min_length=1, max_length=100)


class Refusal(Message):
    """Why one result or lease was not taken: `lost`, `conflict` or `unknown`."""

    task_uuid: UUID
    reason: Literal["lost", "conflict", "unknown"]


class SubmitResponse(Message):
    accepted: int
    rejected: int
    errors: list[Refusal]


class LeaseRef(Request):
    task_uuid: UUID
    lease_token: UUID
    started: bool | None = None


class LeasesRequest(Request):
    executor_id: Name
    leases: list[LeaseRef] = Field(min_length=1, max_length=1000)
    usage: Usage | None = None


class HeartbeatResponse(Message):
    extended: list[UUID]
    lost: list[UUID]


class ReleaseResponse(Message):
    released: list[UUID]
    lost: list[UUID]


class TaskStats(Message):
    total_tasks: int
    pending_tasks: int
    assigned_tasks: int
    completed_tasks: int
    failed_tasks: int
    active_executors: list[str]
    current_cycle_id: int | None


# Public reads


class Health(Message):
    status: Literal["ok", "unhealthy"]
    version: str
    database: Literal["connected", "unreachable"]


class CycleOut(Message):
    id: int
    block_number: int
    started_at: datetime
    completed_at: datetime | None
    status: CycleStatus
    n_miners: int
    n_environments: int
    duration_seconds: float | None
    salt_sha256: str | None = None
    target_block: int | None = None
    failure_reason: str | None = None


class QuarantineOut(Message):
    """An executor that gets no tasks since others contradicted it, or none of the miner `hotkey`."""

    executor_id: str
    hotkey: str | None
    cycle_id: int
    reason: str
    withdrawn: int
    """Verdicts of this cycle that were taken back and run again."""
    since: datetime


class AuditCounts(Message):
    """How the checks of a closed cycle's verdicts ended. An open one's are not told: they would say what is checked."""

    cycle_id: int | None = None
    agreed: int = 0
    contradicted: int = 0
    void: int = 0
    undecided: int = 0
    lapsed: int = 0


class SystemStatus(Message):
    current_cycle: CycleOut | None
    last_completed_cycle: CycleOut | None
    total_cycles: int
    total_miners_evaluated: int
    environments: list[str]
    is_evaluating: bool
    reasons: list[str] = Field(default_factory=list)
    """Sentences an operator should read: why no weights, what the scheduler waits for."""
    unserved_environments: list[str] = Field(default_factory=list)
    """Environments of the running cycle that no live executor serves."""
    scheduler_running: bool = False
    """Whether a scheduler runs on this database, leading, standing by or waiting for its chain."""
    netuid: int | None = None
    genesis: str | None = None
    """The subnet this database belongs to; null before its first scheduler."""
    quarantined: list[QuarantineOut] = Field(default_factory=list)
    audits: AuditCounts = Field(default_factory=AuditCounts)


class MinerOut(Message):
    uid: int
    hotkey: str
    last_evaluated_block: int | None
    avg_success_rate: float | None
    environments_evaluated: int
    state: MinerState
    reason: str | None = None
    repo: str | None = None
    revision: str | None = None
    place: int | None = None
    is_unsteady: bool = False
    """Two runs of this policy that had to be the same were not: its traces can't be compared."""


class QueueOut(Message):
    """How far the open cycle is with one miner. Says nothing of how its episodes ended."""

    cycle_id: int
    status: CycleStatus
    tasks_total: int
    tasks_done: int
    tasks_running: int
    tasks_left: int
    tasks_ahead: int
    """Episodes of other miners that are handed out before this miner's next one."""
    miners_ahead: int


class LastResultOut(Message):
    """What the last completed cycle that evaluated a submission came to for it."""

    cycle_id: int
    block_number: int
    completed_at: datetime
    success_rates: dict[str, float]
    episodes_completed: int
    episodes_failed: int
    policy_errors: dict[str, int]
    """The most frequent errors that were the policy's own, each with the number of episodes."""
    prizes: list[str]
    points: int
    weight: float | None
    """Its share of the weights; null when that cycle published none."""


class MinerStatus(MinerOut):
    """One miner, with everything its owner needs to know why its submission is where it is."""

    committed_block: int | None = None
    first_seen_block: int | None = None
    """The first block at which this hotkey was seen with this policy: its place in line goes by it."""
    seen_at_block: int | None = None
    """The block at which the scheduler last read this commitment for a cycle."""
    queue: QueueOut | None = None
    waiting_for: list[str] = Field(default_factory=list)
    """What has to happen before its next result, each a sentence; empty for a copy and a rejected one."""
    last_result: LastResultOut | None = None


class EnvironmentOut(Message):
    env_id: str
    env_name: str
    task_name: str
    n_evaluations: int
    avg_success_rate: float | None


class ScoreOut(Message):
    uid: int
    hotkey: str
    env_id: str
    success_rate: float
    mean_reward: float
    episodes_completed: int
    episodes_failed: int
    wilson_low: float | None = None
    wilson_high: float | None = None


class ScoresOut(Message):
    cycle: CycleOut
    scores: list[ScoreOut]
    miner_summary: dict[int, dict[str, float]]
    pareto_frontier: list[int]


class WeightsU16(Message):
    uids: list[int]
    values: list[int]


class WeightsOut(Message):
    cycle_id: int
    block_number: int
    timestamp: datetime
    weights: dict[int, float]
    weights_u16: WeightsU16
    hotkeys: dict[int, str]
    netuid: int
    genesis: str
    expires_at_block: int
    metadata: dict[str, Any]  # Any: free-form notes for people (points, prizes)


# Export file, contracts section 8


class RuleOut(Message):
    """The scoring rule a cycle was planned with."""

    alpha: float = Field(default=0.05, gt=0.0, lt=1.0)
    min_improvement: float = Field(default=0.01, ge=0.0, lt=1.0)
    epsilon: float = Field(default=0.05, ge=0.0, lt=1.0)
    temperature: float = Field(default=1.0, gt=0.0, le=1e6)
    burn_uid: Uid | None = None


class ExportMiner(Message):
    """A miner of the cycle. `repo` and `revision` are empty when its commitment could not be read."""

    uid: Uid
    hotkey: str
    repo: str
    revision: str
    committed_block: int
    place: int | None
    state: MinerState
    reason: str | None = None


class ExportEpisode(Message):
    """One task of the cycle. Missing `success` means that it reached no verdict."""

    uid: Uid
    env_id: str
    index: int = Field(ge=0)
    seed: int
    success: bool | None
    score: float | None
    total_reward: float | None
    timesteps: int | None
    error: str | None = None
    error_kind: ErrorKind | None = None
    trace_digest: str | None = None
    tree_digest: str | None = None
    image_digest: str | None = None
    executor_id: str | None = None
    policy_seconds: float | None = None
    task_uuid: UUID | None = None
    policy_seed: int | None = None
    conditions: str | None = None
    """Where to look in the export's `conditions`; None for an episode of which no record was kept."""
    error_code: str | None = None


class ExportHistory(Message):
    """An earlier completed cycle's outcomes in one environment that still count, as bit sets in hex.

    Index i is bit i mod 8, from the least significant, of byte i div 8. Only uids whose (hotkey, repo, revision) is
    this cycle's appear, and only environments whose version is this cycle's.
    """

    cycle_id: int
    env_id: str
    episodes: int = Field(ge=0)
    evaluated: dict[Uid, str]
    success: dict[Uid, str]


class CycleExport(Message):
    """A whole closed cycle: enough to recompute its weights offline."""

    format: Literal[1]
    cycle_id: int
    status: CycleStatus
    block_number: int
    target_block: int
    block_hash: str | None
    salt: str
    salt_sha256: str
    netuid: int
    genesis: str
    episodes_per_env: int = Field(ge=1)
    rule: RuleOut
    environments: list[str]
    miners: list[ExportMiner]
    episodes: list[ExportEpisode]
    history: list[ExportHistory]
    environment_versions: dict[str, str] = Field(default_factory=dict)
    failure_reason: str | None = None
    conditions: dict[str, EpisodeConditions] = Field(default_factory=dict)
    """What the episodes ran under, each different one once."""


class EpisodeOut(Message):
    """One episode of a closed cycle with everything that a replay needs."""

    cycle_id: int
    netuid: int
    hotkey: str
    repo: str
    revision: str
    episode: ExportEpisode
    record: EpisodeRecord | None = None

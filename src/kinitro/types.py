"""The nouns every part shares: statuses, references and results. Values only, no behaviour that needs I/O."""

from dataclasses import dataclass
from enum import StrEnum


class TaskStatus(StrEnum):
    """Life of a task: `pending`, leased (`assigned`), then a verdict (`completed`) or none possible (`failed`)."""

    PENDING = "pending"
    ASSIGNED = "assigned"
    COMPLETED = "completed"
    FAILED = "failed"


class CycleStatus(StrEnum):
    """A cycle is `pending` until its target block is final, then `running`, then closed."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class ErrorKind(StrEnum):
    """Whose fault a failed episode is."""

    POLICY = "policy"
    INFRASTRUCTURE = "infrastructure"


class EvalMode(StrEnum):
    """Where policies and environments run. `process` has no isolation."""

    DOCKER = "docker"
    BASILICA = "basilica"
    PROCESS = "process"


class FolderTemplate(StrEnum):
    """What `miner init` starts a policy from: one small class that works, or a trained LeRobot policy."""

    MINIMAL = "minimal"
    LEROBOT = "lerobot"


class MinerState(StrEnum):
    """What became of a miner's commitment in a cycle."""

    EVALUATED = "evaluated"
    QUEUED = "queued"
    COPY = "copy"
    REJECTED = "rejected"


class AuditState(StrEnum):
    """How the check of a verdict by other runs went.

    `contradicted`: a third executor decided against one of the two. `void`: the policy itself is not steady.
    `undecided`: two contradict each other and no third could decide. `lapsed`: it was not run in time.
    """

    OPEN = "open"
    AGREED = "agreed"
    CONTRADICTED = "contradicted"
    VOID = "void"
    UNDECIDED = "undecided"
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """A policy: a HuggingFace repo at one full revision (40 lower-case hex digits)."""

    repo: str
    revision: str

    def same_as(self, other: "PolicyRef") -> bool:
        """Repo ids compare case-insensitively."""
        return self.revision == other.revision and self.repo.lower() == other.repo.lower()


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """What one run of one episode came to, as an executor reports it.

    `score` is 1.0 for success and 0.0 otherwise; `policy_seconds` sums the waits for the policy. When `error_kind`
    is `infrastructure` the episode reached no verdict.
    """

    success: bool
    score: float
    total_reward: float
    timesteps: int
    error: str | None = None
    error_kind: ErrorKind | None = None
    trace_digest: str | None = None
    tree_digest: str | None = None
    image_digest: str | None = None
    policy_seconds: float | None = None

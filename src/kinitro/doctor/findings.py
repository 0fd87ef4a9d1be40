"""What the doctor says: a line for each prerequisite of each role."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

DEADLINE_S = 20.0


class Role(StrEnum):
    """Who needs a prerequisite; `machine` stands for everybody."""

    MACHINE = "machine"
    MINER = "miner"
    EXECUTOR = "executor"
    SCHEDULER = "scheduler"
    API = "api"
    VALIDATOR = "validator"


class Verdict(StrEnum):
    """How a prerequisite came out. Only `failed` keeps the role from working."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One prerequisite. `advice` is the next command or step."""

    subject: str
    verdict: Verdict
    text: str
    advice: str | None = None


@dataclass(frozen=True)
class Check:
    """One look, which may say several things. Errors of ours and a missed deadline become a `failed` of `subject`."""

    subject: str
    run: Callable[[], Awaitable[Sequence[Finding]]]
    deadline_s: float = DEADLINE_S


@dataclass(frozen=True)
class Section:
    """What was found for one role."""

    role: Role
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Report:
    """Every role's section, in order; `not_examined` are those that nothing is configured for."""

    sections: tuple[Section, ...]
    not_examined: tuple[Role, ...] = ()

    def count(self, verdict: Verdict) -> int:
        """How many findings came out so."""
        return sum(finding.verdict is verdict for section in self.sections for finding in section.findings)

    @property
    def healthy(self) -> bool:
        """Nothing that was looked at has failed."""
        return self.count(Verdict.FAILED) == 0


def ok(subject: str, text: str) -> Finding:
    """A prerequisite that is there."""
    return Finding(subject, Verdict.OK, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """Something that may be meant so, or will matter later."""
    return Finding(subject, Verdict.WARNING, text, advice)


def failed(subject: str, text: str, advice: str | None) -> Finding:
    """A prerequisite that is missing or wrong."""
    return Finding(subject, Verdict.FAILED, text, advice)


def skipped(subject: str, reason: str) -> Finding:
    """What could not be looked at, or need not be."""
    return Finding(subject, Verdict.SKIPPED, reason)

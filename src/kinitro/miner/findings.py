"""What a check says: one line a subject."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a subject came out."""

    GOOD = "good"
    NOTE = "note"
    """Worth knowing; nothing has to change."""
    SKIPPED = "skipped"
    """Could not be checked on this machine."""
    FIX = "fix"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check."""

    verdict: Verdict
    subject: str
    text: str


@dataclass(frozen=True)
class Report:
    """All of a check's findings, in order."""

    findings: tuple[Finding, ...]

    @property
    def ready(self) -> bool:
        """Nothing has to be fixed."""
        return not self.of(Verdict.FIX)

    def of(self, verdict: Verdict) -> list[Finding]:
        """The findings that came out so."""
        return [finding for finding in self.findings if finding.verdict is verdict]

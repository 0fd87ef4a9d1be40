"""When an executor must suspect itself: infrastructure faults of one kind in a row."""

from dataclasses import dataclass

_IN_A_ROW = 3
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 300.0


@dataclass
class FaultCounter:
    """Counts faults of one kind in a row. A verdict shows that this executor works, and ends the row.

    `pause_s` is how long to wait before the next self-test; it doubles each time the row ends in a pause again
    without a verdict in between, so that a fault that the self-test can't see costs few attempts.
    """

    kind: str | None = None
    count: int = 0
    pause_s: float = _FIRST_PAUSE_S

    def record(self, fault: str | None) -> bool:
        """Takes one outcome, None for a verdict; true when fetching must stop."""
        if fault is None:
            self.kind, self.count, self.pause_s = None, 0, _FIRST_PAUSE_S
            return False
        self.count = self.count + 1 if fault == self.kind else 1
        self.kind = fault
        return self.count >= _IN_A_ROW

    def resume(self) -> None:
        """After a self-test, passed or not: the next fault begins a new row, the next pause is longer."""
        self.count = 0
        self.pause_s = min(self.pause_s * 2, _LONGEST_PAUSE_S)

"""What is taken from a hub, and how long is waited for it."""

from dataclasses import dataclass

from kinitro.settings import SharedSettings

GB = 10**9


@dataclass(frozen=True)
class HubLimits:
    """What is taken from a hub, and how long is waited for it. One attempt at a time, `attempts` in all.

    `carried_bytes` is what every evaluator's link must carry within `deadline_s`: 5 MB a second.
    """

    max_bytes: int = 5 * GB
    max_files: int = 500
    carried_bytes: int = 1_200_000_000
    deadline_s: float = 240.0
    attempts: int = 4
    first_pause_s: float = 1.0

    @classmethod
    def chosen(cls) -> "HubLimits":
        """The defaults, with the size that is set. `ConfigurationError` when that is none."""
        return cls(max_bytes=int(SharedSettings.load().max_repo_size_gb * GB))

"""What is taken from a hub, and how long is waited for it."""

import os
from dataclasses import dataclass

from kinitro.errors import ConfigurationError

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
    def from_environment(cls) -> "HubLimits":
        """The defaults, with `KINITRO_MAX_REPO_SIZE_GB` where it is set."""
        text = os.environ.get("KINITRO_MAX_REPO_SIZE_GB", "5")
        try:
            size = float(text)
        except ValueError:
            size = -1.0
        if not 0 < size < 1e6:
            raise ConfigurationError(
                f"KINITRO_MAX_REPO_SIZE_GB is {text!r}, not a size in gigabytes.",
                advice="Set it to a number such as 5.",
            )
        return cls(max_bytes=int(size * GB))

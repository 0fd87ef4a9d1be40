"""What is taken from a hub, how long is waited for it, and whose fault it is when that is not enough."""

import os
from dataclasses import dataclass
from pathlib import Path

from kinitro.errors import InfrastructureError, PolicyError

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
        from kinitro.settings import SharedSettings  # noqa: PLC0415 - this module travels into pods, settings do not

        return cls(max_bytes=int(SharedSettings.load().max_repo_size_gb * GB))


def too_slow(repo: str, arrived_bytes: int, limits: HubLimits) -> PolicyError | InfrastructureError:
    """docs/decisions/0009: so little says that the hub or our link is slow, so much that the repo is large."""
    message = f"{repo} could not be downloaded within {limits.deadline_s:.0f} s; {arrived_bytes / GB:.2f} GB of it were"
    if arrived_bytes < limits.carried_bytes:
        return InfrastructureError(
            f"{message}.", code="hub_timeout", advice="Is the way to the hub slow? See HF_ENDPOINT and the network."
        )
    return PolicyError(
        f"{message}. An evaluator must carry {limits.carried_bytes / GB:g} GB in that time, and this is larger.",
        code="snapshot_too_big",
        advice="Remove what the policy does not need at run time.",
    )


def arrived(folder: Path) -> int:
    """Bytes on the disk in the folder, those of unfinished files included."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512  # noqa: PTH118 - many small files
            except FileNotFoundError:  # just renamed
                continue
    return total

"""Whose fault it is when a policy's packages can't be installed, wherever it runs."""

from kinitro.backends.installing import MAX_BYTES, PROBE, TIMEOUT_S, Ending
from kinitro.errors import InfrastructureError, PolicyError


def problem(ending: Ending, said: str) -> PolicyError | InfrastructureError | None:
    """What an installation's ending means; None when everything is installed. `said` is for people alone."""
    match ending:
        case Ending.INSTALLED:
            return None
        case Ending.REFUSED:
            return _refusal(f"pip can't install them:\n{said}")
        case Ending.TOO_SLOW:
            return _refusal(f"installing them takes more than {TIMEOUT_S:g} s")
        case Ending.TOO_LARGE:
            return _refusal(f"they take more than {MAX_BYTES / 2**30:g} GiB")
        case Ending.NO_INDEX:
            return InfrastructureError(
                f"The package index can't be used from where policies run, {PROBE} can't be had either:\n{said}",
                code="requirements_network",
                advice=f"In Docker mode try `docker run --rm kinitro/miner-runner:v1 pip download -d /tmp {PROBE}`.",
            )
        case Ending.NO_DISK:
            return InfrastructureError(
                f"The disk for policies' packages can't be used: {said}.",
                code="requirements_disk",
                advice=f"Keep {2 * MAX_BYTES / 2**30:g} GiB free: `df -h /var/lib/docker`.",
            )


def _refusal(reason: str) -> PolicyError:
    return PolicyError(
        f"requirements.txt: {reason}",
        code="requirements_failed",
        advice="Only wheels for Python 3.11 on x86-64 Linux are taken: `kinitro miner check PATH --lock` finds them.",
    )

"""How a policy's packages are installed, wherever it runs: only wheels with the hashes that were committed.

Nothing of the miner's runs while they are. The standard library alone: this travels into pods too.
"""

import re

from kinitro.errors import InfrastructureError, PolicyError

MAX_BYTES = 6 * 2**30
TIMEOUT_S = 240.0
PIP_OPTIONS = (
    *("--no-cache-dir", "--no-input", "--disable-pip-version-check", "--no-deps", "--no-compile"),
    *("--only-binary", ":all:", "--require-hashes"),
)
_LAST_LINES = 8
_NO_NETWORK = re.compile(
    r"NewConnectionError|Temporary failure in name resolution|ReadTimeout|ConnectTimeout|Connection (?:reset|refused)|"
    r"SSLError|HTTP error 5\d\d|No space left"
)


def failure(output: str) -> PolicyError | InfrastructureError:
    """Whose fault it is that pip ended with this output."""
    last = "\n".join(output.strip().splitlines()[-_LAST_LINES:])
    if _NO_NETWORK.search(output):
        return InfrastructureError(
            f"The package index can't be reached from where policies run:\n{last}",
            code="requirements_network",
            advice="In Docker mode try `docker run --rm python:3.11-slim-bookworm pip download numpy`.",
        )
    return refusal(f"pip can't install them:\n{last}")


def refusal(problem: str) -> PolicyError:
    """What a policy asks for can't be had."""
    return PolicyError(
        f"requirements.txt: {problem}",
        code="requirements_failed",
        advice="Only wheels for Python 3.11 on x86-64 Linux are taken: `kinitro miner check PATH --lock` finds them.",
    )


def too_slow() -> PolicyError:
    """It takes longer than `TIMEOUT_S`."""
    return refusal(f"installing them takes more than {TIMEOUT_S:g} s")


def too_large() -> PolicyError:
    """They take more than `MAX_BYTES`."""
    return refusal(f"they take more than {MAX_BYTES / 2**30:g} GiB")

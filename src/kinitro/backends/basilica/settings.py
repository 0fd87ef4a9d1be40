"""What a Basilica backend is told, and the names that its deployments go by."""

import hashlib
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from kinitro.backends.base import Source
from kinitro.backends.basilica.protocol import PodConfig
from kinitro.backends.installing import INDEX_TIMEOUT_S, TIMEOUT_S
from kinitro.errors import ConfigurationError

HOST = "basilica"
RUN_DIGITS = 10
DOWNLOAD_S = PodConfig.download_s + 60.0
"""And the time to hash 5 GB twice."""
INSTALL_S = TIMEOUT_S + 2 * INDEX_TIMEOUT_S
"""And the time to look twice whether it is the index that fails."""
_PREFIX = "kinitro"


@dataclass(frozen=True)
class BasilicaSettings:
    """`state` is a directory of this user, where runs are noted until nothing is left of them.

    `program` makes the archive that a policy's pod runs, with the files of a folder if one is given. `confirm` asks the
    hub whether a policy can still be had there, and raises `PolicyError` when not: no deployment is paid for that can't
    get its files. `lifetime_s` is after how long the service ends a policy's deployment by itself, `start_s` how long
    any may take to get ready; a policy's has `download_s` more where it fetches files, and `install_s` where it
    installs packages. `look_s` is how often is looked for what nobody needs, and `first_pause_s` how long is waited
    before a call of the service is tried again.
    """

    state: Path
    token: SecretStr
    url: str
    image: str
    program: Callable[[Path | None], bytes]
    hub: str
    confirm: Callable[[Source], Awaitable[None]] | None = None
    hub_token: SecretStr | None = None
    min_gpu_memory_gb: int | None = None
    max_repo_bytes: int = 5 * 10**9
    max_repo_files: int = 500
    lifetime_s: float = 2880.0
    start_s: float = 300.0
    download_s: float = DOWNLOAD_S
    install_s: float = INSTALL_S
    look_s: float = 30.0
    first_pause_s: float = 1.0

    @property
    def runs(self) -> Path:
        """Where each living run of this service and account holds a lock; another account can't delete ours."""
        account = hashlib.sha256(f"{self.url}\n{self.token.get_secret_value()}".encode()).hexdigest()[:16]
        return self.state / "basilica-runs" / account


class Names:
    """Unique names of one run's deployments, each a DNS label that says whose it is."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._numbers = itertools.count(1)

    def policy(self) -> str:
        """A policy's deployment."""
        return f"{_PREFIX}-{self._run}-{next(self._numbers)}"

    def call(self) -> str:
        """What affinetes gets as a task's id, to name a deployment by: from 27 characters on it would cut the name."""
        return f"{self._run}-{next(self._numbers)}"


def is_of_run(name: str, run: str) -> bool:
    """Whether a deployment belongs to a run: a policy's by our name, an environment's by affinetes' of a call."""
    return name.startswith(f"{_PREFIX}-{run}-") or f"-t{run}-" in name


def is_of_call(name: str, call: str) -> bool:
    """Whether affinetes made it for this call."""
    return f"-t{call}-" in name


def is_private(url: str) -> bool:
    """Whether nobody between can read or change what goes there: https, or this very machine."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "https":
            return bool(parts.hostname)
        return parts.scheme == "http" and (parts.hostname == "localhost" or ip_address(str(parts.hostname)).is_loopback)
    except ValueError:
        return False


def checked_address(url: str, variable: str) -> str:
    """The address, which tokens are sent to. `ConfigurationError` unless it is https or on this machine."""
    if not is_private(url):
        raise ConfigurationError(
            f"{variable} is {url!r}, and a token would be sent there for anyone to read.",
            advice="Use an https:// address; http:// is for a stand-in on this machine (127.0.0.1) only.",
        )
    return url

"""What a Docker backend is told, and the names that everything it makes goes by."""

import hashlib
import socket
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from kinitro.backends.base import LOCAL_HOST

RUN_LABEL = "kinitro.run"
HOME_LABEL = "kinitro.home"
ROLE_LABEL = "kinitro.role"
LOADER_LABEL = "kinitro.loaded-by"
"""On containers that affinetes started: its version."""
BRIDGE_PREFIX = "kn"
_SUBNETS = IPv4Network("10.213.0.0/16")


@dataclass(frozen=True)
class DockerSettings:
    """`state` is a directory of this user, the same for every run, where runs are noted until nothing is left of them.

    `image` is what is started when a spec names none, and what the firewall's helper and the isolation probe run in.
    `callers` is how many environments may call one policy at once. `subnets` is cut into one network for each server.
    `host` is `localhost`, the engine of DOCKER_HOST, or `ssh://user@host`. Each episode there has processors for
    itself, as many as a policy of `policy_cpus` may use; `kept_cores` are for everything else.
    """

    state: Path
    image: str
    callers: int = 30
    subnets: IPv4Network = _SUBNETS
    isolate: bool = True
    """False leaves the firewall rule out, so that the probe must find the hole: for tests of just that."""
    host: str = LOCAL_HOST
    policy_cpus: float = 1.0
    kept_cores: int = 1

    @property
    def runs(self) -> Path:
        """Where each living run on this host holds a lock."""
        runs = self.state / "docker-runs"
        return runs if self.host == LOCAL_HOST else runs / hashlib.sha256(self.host.encode()).hexdigest()[:16]

    @property
    def home(self) -> str:
        """Marks what belongs to this state directory of this machine."""
        return hashlib.sha256(f"{socket.gethostname()}:{self.state}".encode()).hexdigest()[:16]


def bridge_prefix(run: str) -> str:
    """What the names of a run's network interfaces on the host begin with (15 characters are the kernel's limit)."""
    return f"{BRIDGE_PREFIX}{run}"

"""How something untrusted or heavy is started: one spec, one handle, whatever runs it."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

LOCAL_HOST = "localhost"


class Role(StrEnum):
    """What is started; a backend may treat the untrusted kind more strictly."""

    POLICY = "policy"
    ENVIRONMENT = "environment"


class NetworkAccess(StrEnum):
    """Whom the started thing may call."""

    NONE = "none"
    """Nobody; it only answers."""
    OPEN = "open"


@dataclass(frozen=True)
class Limits:
    """Hard limits. A backend that can't enforce one says so through `Backend.enforces`."""

    memory_bytes: int | None = None
    cpus: float | None = None
    processes: int | None = None
    gpus: int = 0
    lifetime_s: float | None = None
    """It ends by itself after so long, whatever has become of us and of what runs it."""


@dataclass(frozen=True)
class Memory:
    """A host's memory in bytes: all of it, and what could be given out without pushing anything else out."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class Source:
    """Where a policy's folder comes from, for a backend that runs it elsewhere: a hub's repo at one revision.

    `digest` is that of all its files (64 hex digits), as they were checked here.
    """

    repo: str
    revision: str
    digest: str


@dataclass(frozen=True)
class LaunchSpec:
    """Everything a backend needs to start one HTTP server.

    `command` may hold `{port}` and `{host}`, replaced by where the server must listen. `directory` is its working
    directory (read-only to it where the backend can). `environment` is the whole environment it gets, apart from what
    a backend must add; secrets of ours never go in for a policy.
    """

    name: str
    role: Role
    command: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    network: NetworkAccess = NetworkAccess.NONE
    labels: Mapping[str, str] = field(default_factory=dict)
    requirements: tuple[str, ...] = ()
    """Python packages it needs, `name==version --hash=sha256:...`; left out where none can be installed."""
    source: Source | None = None
    image: str | None = None
    """What it runs in, where a backend runs images; None is the backend's own choice."""
    host: str | None = None
    """Which of the backend's hosts it runs on; None is the backend's own choice."""


class Running(Protocol):
    """A started server. Closing is idempotent and leaves no process, child or port behind."""

    @property
    def url(self) -> str:
        """Base URL that servers connected to it use, without a trailing slash."""
        ...

    @property
    def own_url(self) -> str:
        """Base URL that this process uses; another one where the server runs on another machine."""
        ...

    @property
    def host(self) -> str:
        """The host it runs on. Only servers of one host can be connected."""
        ...

    @property
    def authorization(self) -> str | None:
        """What its callers send as the `Authorization` header; None where nobody else can call it."""
        ...

    @property
    def identity(self) -> str:
        """Changes if the thing behind `url` was replaced or restarted."""
        ...

    async def exit_code(self) -> int | None:
        """None while it lives."""
        ...

    async def logs(self, lines: int = 20) -> str:
        """Its last lines of output, for error messages."""
        ...

    async def pause(self) -> None:
        """Takes its processors away until `resume`, where the backend can: what is not in use must not compute."""
        ...

    async def resume(self) -> None:
        """Gives them back. `InfrastructureError` when that can't be done."""
        ...

    async def stop(self, grace_s: float = 2.0) -> None:
        """Asks it to end, then ends it, with everything it started."""
        ...


class Backend(Protocol):
    """Starts servers and guarantees that they end with us, even when we are killed."""

    isolates: bool
    """False: only trusted policies may run here, and the executor says so."""

    enforces: frozenset[str]
    """Which fields of `Limits`, and `network`, are hard limits here."""

    @property
    def hosts(self) -> Mapping[str, int | None]:
        """Its hosts, and how many episodes at once each has processors for; None where that is not known."""
        ...

    async def launch(self, spec: LaunchSpec) -> Running:
        """Starts it and returns at once; readiness is the caller's to poll. `InfrastructureError` when it can't."""
        ...

    async def connect(self, caller: Running, callee: Running) -> None:
        """Lets `caller` call `callee.url`, and no other server that it was let call before."""
        ...

    def reserve(self, *servers: Running) -> AbstractAsyncContextManager[None]:
        """Processors that no other episode uses, for one episode of these servers and the length of the block.

        Waits for them. Where the backend can't reserve any, nothing happens.
        """
        ...

    async def memory(self, host: str) -> Memory:
        """The host's memory now. `InfrastructureError` when it can't be read."""
        ...

    async def close(self) -> None:
        """Stops everything this backend started."""
        ...

"""One start of a policy's server: how it goes, what is remembered of one that failed, and who pays for it.

A start that fails by the policy's fault is remembered for a while and told to everyone who asks: the same files on
the same machine give the same verdict, and a broken policy must not cost a warm-up for each of its episodes.
A failure of ours is remembered only as long as it took, at most a minute: one that came late must not be paid for by
every task, and one that came at once costs nothing to try again.
"""

import asyncio
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from kinitro.backends.base import Backend, LaunchSpec, Limits, Role, Running, Source
from kinitro.deployments.cache import Hold, Snapshot
from kinitro.deployments.readiness import told_as_not_ready, until_ready
from kinitro.deployments.requirements import Requirement, read_requirements, requirements_digest
from kinitro.deployments.snapshots import SnapshotStore
from kinitro.errors import InfrastructureError, PolicyError
from kinitro.policy.messages import PolicyHealth
from kinitro.types import PolicyRef

_LONGEST_BACK_OFF_S = 60.0
Key = tuple[str, str]


def key_of(ref: PolicyRef) -> Key:
    """What deployments are kept by: the hub takes a repo's name in any case."""
    return ref.repo.lower(), ref.revision


@dataclass(frozen=True)
class DeploymentSettings:
    """How policy servers are started and kept. `capacity` bounds those that exist at once, in use or not.

    One older than `max_age_s` is given to nobody any more, where servers have a set time to live.
    """

    ttl_s: float = 600.0
    max_age_s: float = math.inf
    warmup_timeout_s: float = 300.0
    failure_memory_s: float = 600.0
    capacity: int = 4
    limits: Limits = field(default_factory=Limits)
    python: str = sys.executable
    image: str | None = None


@dataclass(frozen=True)
class Deployment:
    """A policy server that was healthy when it was handed out."""

    ref: PolicyRef
    url: str
    identity: str
    tree_digest: str
    health: PolicyHealth
    running: Running
    files: Hold
    """Keeps its files in the cache while it runs."""
    requirements_digest: str | None = None
    """Of the packages that it asks for; None when it asks for none."""


class Starter:
    """Starts servers, one after another or at once, and keeps the accounts of it."""

    def __init__(
        self, backend: Backend, store: SnapshotStore, settings: DeploymentSettings, clock: Callable[[], float]
    ) -> None:
        self._backend = backend
        self._store = store
        self._settings = settings
        self._clock = clock
        self._failures: dict[Key, tuple[float, PolicyError | InfrastructureError]] = {}
        self._billed_s: dict[Key, float] = {}
        self._restarts: set[Key] = set()

    async def start(self, ref: PolicyRef) -> Deployment:
        """A server that is healthy. One that does not get so is stopped, and its files are released.

        Raises:
            PolicyError: snapshot faults; `died_at_start`; `not_ready`, beginning "Miner deployment not ready".
            InfrastructureError: the hub, the disk or the backend failed.
        """
        with told_as_not_ready():
            borrowed = await self._store.borrow(ref)
        running: Running | None = None
        try:
            snapshot = borrowed.snapshot
            with told_as_not_ready():
                requirements = read_requirements(snapshot.path)  # refused where they are not installed too: one verdict
            with self._billed(ref):
                running = await self._backend.launch(self._spec(ref, snapshot, requirements))
                health = await until_ready(running, self._settings.warmup_timeout_s)
        except BaseException:
            if running is not None:
                await asyncio.shield(running.stop(0.0))
            borrowed.hold.release()
            raise
        return Deployment(
            ref,
            running.url,
            running.identity,
            snapshot.tree_digest,
            health,
            running,
            borrowed.hold,
            requirements_digest(requirements),
        )

    def raise_remembered(self, ref: PolicyRef) -> None:
        """Raises what the last start failed with, while that counts."""
        until, error = self._failures.get(key_of(ref), (0.0, None))
        if error is not None and self._clock() < until:
            family = PolicyError if isinstance(error, PolicyError) else InfrastructureError
            raise family(error.message, code=error.code, advice=error.advice) from error

    def remember(self, ref: PolicyRef, error: BaseException | None, took_s: float) -> None:
        """Takes what a start failed with, and how long that took."""
        if isinstance(error, PolicyError):
            self._failures[key_of(ref)] = (self._clock() + self._settings.failure_memory_s, error)
        elif isinstance(error, InfrastructureError):
            self._failures[key_of(ref)] = (self._clock() + min(took_s, _LONGEST_BACK_OFF_S), error)

    def forget_old(self) -> None:
        """Drops what counts no more."""
        now = self._clock()
        self._failures = {key: value for key, value in self._failures.items() if now < value[0]}

    def blame(self, ref: PolicyRef) -> None:
        """Its server ended or hung by itself: the next start is of its own making."""
        self._restarts.add(key_of(ref))

    def bill(self, ref: PolicyRef) -> float:
        """Seconds of starts that were of the policy's own making, since this was asked last (docs/decisions/0020).

        Those that failed, and those after a server that had ended or no longer answered.
        """
        return self._billed_s.pop(key_of(ref), 0.0)

    @contextmanager
    def _billed(self, ref: PolicyRef) -> Iterator[None]:
        """Bills the block to the policy when that made it necessary, or makes it fail; never what we fail in."""
        key, began = key_of(ref), self._clock()
        is_policys = key in self._restarts
        try:
            yield
        except PolicyError:
            is_policys = True
            raise
        except BaseException:
            is_policys = False
            raise
        finally:
            if is_policys:
                self._restarts.discard(key)
                self._billed_s[key] = self._billed_s.get(key, 0.0) + self._clock() - began

    def _spec(self, ref: PolicyRef, snapshot: Snapshot, requirements: Sequence[Requirement]) -> LaunchSpec:
        return LaunchSpec(
            name=f"The policy {ref.repo}",
            role=Role.POLICY,
            command=(self._settings.python, "server.py", "--host", "{host}", "--port", "{port}"),
            directory=snapshot.path,
            limits=self._settings.limits,
            labels={"repo": ref.repo, "revision": ref.revision},
            requirements=tuple(one.line for one in requirements),
            source=Source(ref.repo, ref.revision, snapshot.full_digest),
            image=self._settings.image,
        )

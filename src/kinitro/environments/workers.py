"""Environment servers: one process for each episode that runs at once, kept warm and replaced when one misbehaves."""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kinitro.backends.base import Backend, LaunchSpec, Limits, Role, Running
from kinitro.environments.protocol import SECRET_VARIABLE
from kinitro.environments.remote import EnvironmentServer, RemoteEnvironmentServer
from kinitro.errors import EnvironmentFault, InfrastructureError

_PASSED_ON = (
    "KINITRO_GL",
    "KINITRO_PROCTHOR_UNITY",
    "MUJOCO_GL",
    "PYOPENGL_PLATFORM",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "DISPLAY",
    "XAUTHORITY",
)
ENVIRONMENT_SERVER = (sys.executable, "-P", "-m", "kinitro.environments.server", "--host", "{host}", "--port", "{port}")
"""How an environment server of this installation is started."""


def remote_server(running: Running, secret: str) -> EnvironmentServer:
    """The client of a server that runs and knows this secret."""
    return RemoteEnvironmentServer(running.own_url, secret)


@dataclass(frozen=True)
class EnvironmentLaunch:
    """How environment servers are started. `images` says what each family runs in, where the backend runs images.

    `passed_on` are variables of ours that they get too, `variables` others with their values; `digests` are the
    images' own, for the record; `client` is how one that was started is spoken to.
    """

    command: Sequence[str] = ENVIRONMENT_SERVER
    images: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    passed_on: Sequence[str] = _PASSED_ON
    memory_bytes: int | None = None
    gpus: int = 0
    client: Callable[[Running, str], EnvironmentServer] = remote_server
    variables: Mapping[str, str] = field(default_factory=dict)


_RECENT = 4  # as many simulators as an environment server keeps


@dataclass(eq=False)
class _Worker:
    """One environment server. `recent` are the environments whose simulators it has built, latest last."""

    family: str
    running: Running
    server: EnvironmentServer
    recent: list[str] = field(default_factory=list)
    policy: Running | None = None

    def used(self, env_id: str) -> None:
        self.recent = [*(kept for kept in self.recent if kept != env_id), env_id][-_RECENT:]


class EnvironmentWorkers:
    """At most `capacity` environment servers on each host. An async context manager: leaving it stops them all."""

    def __init__(
        self,
        backend: Backend,
        capacity: int,
        launch: EnvironmentLaunch | None = None,
        *,
        start_timeout_s: float = 60.0,
    ) -> None:
        self._backend = backend
        self._launch = launch or EnvironmentLaunch()
        self._start_timeout_s = start_timeout_s
        self._capacity = {host: min(capacity, room or capacity) for host, room in backend.hosts.items()}
        self._free = {host: asyncio.Semaphore(room) for host, room in self._capacity.items()}
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []

    async def __aenter__(self) -> "EnvironmentWorkers":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @asynccontextmanager
    async def lease(self, env_id: str, policy: Running | None = None) -> AsyncIterator[EnvironmentServer]:
        """A server for one episode of this environment, able to call `policy`; waits while all are busy.

        It is on the policy's host, and both have processors to themselves for the length of the block. One whose block
        ends by an exception is stopped, not reused. Raises `EnvironmentFault` (`environment_start`) when none can be
        started, `InfrastructureError` when it can't be put in touch.
        """
        host = policy.host if policy is not None else next(iter(self._free))
        async with self._free[host]:
            worker = await self._living_idle(env_id, host, policy) or await self._start(env_id.partition("/")[0], host)
            worker.used(env_id)
            try:
                async with self._together(worker, policy):
                    yield worker.server
            except BaseException:
                await asyncio.shield(self._end(worker))
                raise
            self._idle.append(worker)

    @asynccontextmanager
    async def _together(self, worker: _Worker, policy: Running | None) -> AsyncIterator[None]:
        """Puts the two in touch, on processors of their own."""
        if policy is None:
            async with self._backend.reserve(worker.running):
                yield
            return
        await self._backend.connect(worker.running, policy)
        worker.policy = policy
        async with self._backend.reserve(worker.running, policy):
            yield

    async def close(self) -> None:
        """Stops every server. Safe to call twice."""
        await asyncio.gather(*(self._end(worker) for worker in list(self._workers)))
        self._idle.clear()

    def image_digest(self, env_id: str) -> str | None:
        """The image that the environment runs in; None where there are no images."""
        return self._launch.digests.get(env_id.partition("/")[0])

    async def _living_idle(self, env_id: str, host: str, policy: Running | None) -> _Worker | None:
        """An idle server of the family there; best one with this environment's simulator, then one in touch already."""
        family = env_id.partition("/")[0]
        while mine := [one for one in self._idle if one.family == family and one.running.host == host]:
            worker = max(mine, key=lambda worker: (env_id in worker.recent, worker.policy is policy))
            self._idle.remove(worker)
            if await _is_alive(worker):
                return worker
            await self._end(worker)
        return None

    async def _start(self, family: str, host: str) -> _Worker:
        idle = [worker for worker in self._idle if worker.running.host == host]
        if sum(worker.running.host == host for worker in self._workers) >= self._capacity[host] and idle:
            # Another family's: the one idle for longest makes way.
            self._idle.remove(idle[0])
            await self._end(idle[0])
        secret = secrets.token_urlsafe(32)
        running = await self._backend.launch(self._spec(family, host, secret))
        worker = _Worker(family, running, self._launch.client(running, secret))
        self._workers.add(worker)
        try:
            await self._until_ready(worker)
        except BaseException:
            await asyncio.shield(self._end(worker))
            raise
        return worker

    def _spec(self, family: str, host: str, secret: str) -> LaunchSpec:
        passed_on = {name: os.environ[name] for name in self._launch.passed_on if name in os.environ}
        return LaunchSpec(
            name=f"The environment server of {family}",
            role=Role.ENVIRONMENT,
            command=tuple(self._launch.command),
            directory=Path("/"),
            environment=passed_on | dict(self._launch.variables) | {SECRET_VARIABLE: secret},
            limits=Limits(cpus=1.0, memory_bytes=self._launch.memory_bytes, gpus=self._launch.gpus),
            image=self._launch.images.get(family),
            host=host,
        )

    async def _until_ready(self, worker: _Worker) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._start_timeout_s
        while True:
            problem = await self._problem(worker)
            if problem is None:
                return
            if (code := await worker.running.exit_code()) is not None:
                problem = f"it ended with exit code {code}"
            if code is not None or loop.time() >= end:
                raise EnvironmentFault(
                    f"The environment server of {worker.family} did not start: {problem}. Its last output:\n"
                    f"{await worker.running.logs()}",
                    code="environment_start",
                    advice="Run `kinitro doctor` and `kinitro env test ENV_ID`.",
                )
            await asyncio.sleep(0.05)

    async def _problem(self, worker: _Worker) -> str | None:
        try:
            await worker.server.health()
        except EnvironmentFault as error:
            return error.message
        return None

    async def _end(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers.discard(worker)
            await worker.server.close()
            await worker.running.stop(0.5)


async def _is_alive(worker: _Worker) -> bool:
    try:
        return await worker.running.exit_code() is None
    except InfrastructureError:  # it was ended from outside
        return False

"""Several Docker hosts as one backend: each server goes to the host that it is asked for, or to the least busy one."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Self

from kinitro.backends.base import LaunchSpec, Memory, Running
from kinitro.backends.docker.backend import DockerBackend
from kinitro.backends.docker.settings import DockerSettings
from kinitro.errors import ConfigurationError, InfrastructureError
from kinitro.logs import get_logger

_log = get_logger("docker")
_REST_S = 60.0
_LONGEST_REST_S = 600.0


class DockerFleet:
    """One `DockerBackend` a host. An async context manager: every host must prove its isolation.

    Servers of one episode are on one host; nothing goes from host to host. A host on which a server could not be
    started by our fault rests for a while, as long as there is another: its faults must not stop them all.
    """

    isolates = True
    enforces = DockerBackend.enforces

    def __init__(self, hosts: Iterable[DockerSettings], clock: Callable[[], float] = time.monotonic) -> None:
        self._backends = {settings.host: DockerBackend(settings) for settings in hosts}
        self._starting: Counter[str] = Counter()
        self._clock = clock
        self._rests: dict[str, tuple[float, float]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for backend in self._backends.values():
                await stack.enter_async_context(backend)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ensure_image(self, image: str, how_to_build: str) -> str:
        """The image's id, the same on every host.

        `ConfigurationError` "Failed to pull image" where a host neither has it nor can pull it, and when two hosts
        have different ones of that name: the same seed could then end differently.
        """
        found = {host: await backend.ensure_image(image, how_to_build) for host, backend in self._backends.items()}
        first = next(iter(found))
        for host, digest in found.items():
            if digest != found[first]:
                raise ConfigurationError(
                    f"The Docker hosts {first} and {host} have different images named {image}.",
                    advice=f"Copy one of them: docker save {image} | ssh {host.removeprefix('ssh://')} docker load",
                )
        return found[first]

    @property
    def hosts(self) -> Mapping[str, int | None]:
        """Each host, and how many episodes at once it has processors for."""
        return {host: room for backend in self._backends.values() for host, room in backend.hosts.items()}

    async def launch(self, spec: LaunchSpec) -> Running:
        """Starts it on the spec's host, else on the one with the fewest policies for its processors."""
        host = spec.host or await self._choose(spec)
        self._starting[host] += 1
        try:
            running = await self._backends[host].launch(spec)
        except InfrastructureError as error:
            self._rest(host, error)
            raise
        finally:
            self._starting[host] -= 1
        self._rests.pop(host, None)
        return running

    def _rest(self, host: str, error: InfrastructureError) -> None:
        """Twice as long as the last time, when no server was started there in between."""
        now = self._clock()
        until, length_s = self._rests.get(host, (now, _REST_S / 2))
        if now < until or len(self._backends) == 1:
            return  # what began together fails together
        length_s = min(2 * length_s, _LONGEST_REST_S)
        self._rests[host] = (now + length_s, length_s)
        _log.warning("docker_host_rests", host=host, seconds=length_s, error=str(error))

    async def _choose(self, spec: LaunchSpec) -> str:
        """The least busy host of those that work and have the memory, or of those that work, or of all."""
        now = self._clock()
        working = [host for host in self._backends if self._rests.get(host, (now, 0.0))[0] <= now]
        hosts = working or list(self._backends)
        roomy = [host for host in hosts if await self._fits(host, spec.limits.memory_bytes or 0)]
        return min(roomy or hosts, key=self._load)

    async def _fits(self, host: str, wanted_bytes: int) -> bool:
        try:
            return (await self.memory(host)).available_bytes >= wanted_bytes
        except InfrastructureError:  # it will say so itself
            return True

    def _load(self, host: str) -> float:
        backend = self._backends[host]
        return (backend.policies + self._starting[host]) / (backend.hosts[host] or 1)

    async def connect(self, caller: Running, callee: Running) -> None:
        """Puts the caller on the callee's network, off any it was put on before."""
        await self._backends[callee.host].connect(caller, callee)

    def reserve(self, *servers: Running) -> AbstractAsyncContextManager[None]:
        """Processors of their host for the length of the block."""
        return self._backends[servers[0].host].reserve(*servers)

    async def memory(self, host: str) -> Memory:
        """The host's memory now."""
        return await self._backends[host].memory(host)

    async def close(self) -> None:
        """Removes everything from every host. Safe to call twice."""
        await asyncio.shield(self._stack.aclose())

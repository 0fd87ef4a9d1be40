"""Launches containers: one internal network each, hard limits, nothing writable but /tmp, nobody to call.

Policies are started by the SDK, environments by affinetes in a process of its own. Both are reached over HTTP at an
address that no other container of this run ever gets.
"""

import asyncio
import contextlib
import functools
import itertools
import math
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import IO, Any

from kinitro.backends.affinetes import AffinetesHost
from kinitro.backends.base import LaunchSpec, Memory, Role, Running
from kinitro.backends.docker import firewall, isolation
from kinitro.backends.docker.container import PORT, DockerRun, Place, hardened, lifetime
from kinitro.backends.docker.cores import Cores, as_cpuset
from kinitro.backends.docker.dependencies import FOLDER, Installer
from kinitro.backends.docker.engine import Engine
from kinitro.backends.docker.guard import IsolationGuard
from kinitro.backends.docker.hosts import connected
from kinitro.backends.docker.output import OutputWatch
from kinitro.backends.docker.settings import HOME_LABEL, ROLE_LABEL, RUN_LABEL, DockerSettings, bridge_prefix
from kinitro.backends.docker.sweep import sweep
from kinitro.backends.docker.tunnel import Tunnel
from kinitro.backends.docker.watch import EngineWatch
from kinitro.backends.meminfo import read_meminfo
from kinitro.backends.runs import begin_run
from kinitro.errors import ConfigurationError, EnvironmentFault, InfrastructureError

_SUBNET_TRIES = 256
_LOOK_S = 0.2


@dataclass(frozen=True)
class _Run:
    """What belongs to one life of a backend."""

    name: str
    lock: IO[str]
    affinetes: AffinetesHost
    watch: EngineWatch
    guard: IsolationGuard


class DockerBackend:
    """Starts servers in containers of one Docker host. An async context manager.

    Entering it proves the isolation, leaving it removes all.

    Entering raises `ConfigurationError` when there is no engine or image, or a container can reach anything.
    """

    isolates = True
    enforces = frozenset({"memory_bytes", "cpus", "processes", "gpus", "lifetime_s", "network"})

    def __init__(self, settings: DockerSettings) -> None:
        self._settings = settings
        self._running: set[DockerRun] = set()
        self._numbers = itertools.count(1)
        self._subnets = _subnets(settings)
        self._connection = AsyncExitStack()
        self._tunnel: Tunnel | None = None
        self._engine_: Engine | None = None
        self._run_: _Run | None = None
        self._output: asyncio.Task[None] | None = None
        self._cores_: Cores | None = None
        self._pinning = asyncio.Lock()

    async def __aenter__(self) -> "DockerBackend":
        try:
            engine, self._tunnel = await self._connection.enter_async_context(connected(self._settings.host))
            self._engine_ = engine
            await engine.do("The sweep", lambda: sweep(engine, self._settings))
            runner = self._settings.image
            await asyncio.to_thread(engine.ensure_image, runner, f"kinitro env build miner --tag {runner}")
            await self._begin(engine)
            facts = await self._prove_isolation()
            self._cores_ = Cores(facts.cpus, self._settings.kept_cores, math.ceil(self._settings.policy_cpus))
            await self._run.guard.start(facts.addresses)
            self._output = asyncio.create_task(OutputWatch(self._policies).run())
        except BaseException:
            await asyncio.shield(self.close())
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ensure_image(self, image: str, how_to_build: str) -> str:
        """The id of an image; pulls it when it is not here. `ConfigurationError` "Failed to pull image" otherwise."""
        return await asyncio.to_thread(self._engine.ensure_image, image, how_to_build)

    @property
    def hosts(self) -> Mapping[str, int | None]:
        """This one host."""
        return {self._settings.host: self._cores.episodes}

    @property
    def policies(self) -> int:
        """How many policies there are now."""
        return len(self._policies())

    async def launch(self, spec: LaunchSpec) -> Running:
        """Starts it; a policy at once, an environment once it answers. `InfrastructureError` when it can't.

        A policy is started only while it is proved that policies are isolated.
        """
        if spec.role is Role.POLICY:
            await self._run.guard.holding()
        place = await self._make_place(spec)
        running = DockerRun(self._engine, self._run.watch, place, on_stopped=self._let_go)
        self._running.add(running)
        try:
            if spec.role is Role.POLICY:
                await self._start_policy(spec, running)
            else:
                await self._start_environment(spec, running)
        except BaseException:
            await asyncio.shield(running.stop(0.0))
            raise
        return running

    async def connect(self, caller: Running, callee: Running) -> None:
        """Puts the caller on the callee's network, off any it was put on before."""
        if not isinstance(caller, DockerRun) or not isinstance(callee, DockerRun):
            raise TypeError("only containers of this backend can be connected")
        await caller.attach_to(callee)

    @asynccontextmanager
    async def reserve(self, *servers: Running) -> AsyncIterator[None]:
        """Processors of their own for the length of the block; all others keep off them."""
        runs = [server for server in servers if isinstance(server, DockerRun)]
        try:
            async with self._cores.take() as mine, self._given(runs, mine):
                yield
        finally:
            with contextlib.suppress(InfrastructureError):  # whoever stays where it was has nothing to do there
                await asyncio.shield(self._spread())

    @asynccontextmanager
    async def _given(self, runs: list[DockerRun], cores: tuple[int, ...]) -> AsyncIterator[None]:
        for run in runs:
            run.cores.update(cores)
        try:
            await self._spread()
            yield
        finally:
            for run in runs:
                run.cores.difference_update(cores)

    async def _spread(self) -> None:
        """Keeps every server to its episodes' processors, and those without one to what is left."""
        async with self._pinning:
            await asyncio.gather(*(run.keep_to(self._cores.common) for run in list(self._running)))

    async def memory(self, _host: str) -> Memory:
        """The Docker host's memory now."""
        return await (self._tunnel.memory() if self._tunnel else asyncio.to_thread(read_meminfo))

    async def close(self) -> None:
        """Removes everything of this run: containers, networks, volumes, the firewall rule. Safe to call twice."""
        run, self._run_ = self._run_, None
        if self._output is not None:
            self._output.cancel()
            await asyncio.gather(self._output, return_exceptions=True)
        if run is not None:
            await run.guard.close()
            run.watch.close()
            await asyncio.gather(*(running.stop(0.5) for running in list(self._running)), return_exceptions=True)
            await run.affinetes.close()
            run.lock.close()
        await self._connection.aclose()
        self._engine_ = None

    async def _let_go(self, run: DockerRun) -> None:
        self._running.discard(run)
        if self._tunnel is not None and run.place.way is not None:
            await self._tunnel.unforward(run.place.way)

    @property
    def _cores(self) -> Cores:
        if self._cores_ is None:
            raise InfrastructureError("The Docker backend is closed.", code="closed")
        return self._cores_

    @property
    def _engine(self) -> Engine:
        if self._engine_ is None:
            raise InfrastructureError("The Docker backend is closed.", code="closed")
        return self._engine_

    @property
    def _run(self) -> _Run:
        if self._run_ is None:
            raise InfrastructureError("The Docker backend is closed.", code="closed")
        return self._run_

    async def _begin(self, engine: Engine) -> None:
        settings, tunnel = self._settings, self._tunnel
        name, lock = begin_run(settings.runs)
        options = ("--run", name, "--state", str(settings.state), "--image", settings.image, "--host", settings.host)
        held = (lock.fileno(), *([tunnel.lifeline] if tunnel else []))
        module = "kinitro.backends.docker.affinetes_worker"
        affinetes = AffinetesHost(module, options, held, _affinetes_environment(tunnel))
        watch = EngineWatch(engine, f"{RUN_LABEL}={name}")
        self._run_ = _Run(name, lock, affinetes, watch, self._make_guard(engine, name))
        await affinetes.start()
        self._run_.watch.start()
        if self._settings.isolate:
            await engine.do("The firewall's helper", lambda: firewall.install(engine, self._settings, name))

    # Isolation

    def _policies(self) -> list[DockerRun]:
        return [running for running in self._running if running.place.volume is not None]

    def _make_guard(self, engine: Engine, name: str) -> IsolationGuard:
        async def repair() -> None:
            await engine.do("The firewall's helper", lambda: firewall.install(engine, self._settings, name))

        async def end_policies(error: InfrastructureError) -> None:
            await asyncio.gather(*(one.end("[ended by us]", error) for one in self._policies()), return_exceptions=True)

        labels = {RUN_LABEL: name, HOME_LABEL: self._settings.home, ROLE_LABEL: "sentinel"}
        return IsolationGuard(
            engine,
            self._settings.image,
            labels,
            make_network=self._make_network,
            repair=repair,
            on_lost=end_policies,
        )

    async def _prove_isolation(self) -> isolation.HostFacts:
        engine, image = self._engine, self._settings.image
        name, network, _ = await self._make_network("probe")
        plain = hardened(LaunchSpec("The probe", Role.POLICY, (), self._settings.state), {}) | {
            "labels": self._labels("probe"),
            "working_dir": "/",
        }
        look = functools.partial(isolation.look_from_inside, engine, image, plain, plain | {"network": name})
        facts, reached = await engine.do("The isolation probe", look)
        await engine.do("The probe's network", lambda: engine.remove_network(network.id))
        if reached:
            raise ConfigurationError(
                f"Policies would not be isolated on this Docker host ({self._settings.host}): from inside a container "
                f"the probe reached {', '.join(reached)}. Untrusted policies are not run here.",
                advice="See docs/docker.md (Isolation): the firewall rule of the INPUT chain is missing or without "
                "effect. For policies that you trust there is --eval-mode process.",
            )
        return facts

    # Starting

    async def _make_place(self, spec: LaunchSpec) -> Place:
        name, network, subnet = await self._make_network(spec.role)
        volume = f"{name}-files" if spec.role is Role.POLICY else None
        place = Place(name, network, subnet, volume, spec.name, self._settings.host)
        if self._tunnel is None:
            return place
        return replace(place, way=await self._tunnel.forward(place.address, PORT))

    async def _make_network(
        self, role: str, *, internal: bool = True
    ) -> tuple[str, Any, IPv4Network]:  # Any: the SDK's network
        number = next(self._numbers)
        name, bridge = f"kinitro-{self._run.name}-{number}", f"{bridge_prefix(self._run.name)}{number:x}"
        engine, labels = self._engine, self._labels(role)
        for subnet in itertools.islice(self._subnets, _SUBNET_TRIES):
            make = functools.partial(engine.create_network, name, bridge, subnet, labels, internal=internal)
            network = await engine.do(f"The network {name}", make)
            if network is not None:
                return name, network, subnet
        raise InfrastructureError(
            f"No free subnet was found in {self._settings.subnets}.",
            code="no_subnet",
            advice="Remove unused networks: docker network prune.",
        )

    async def _install(self, spec: LaunchSpec, image: str) -> str | None:
        """The volume with the policy's packages; None when it asks for none."""
        if not spec.requirements:
            return None
        engine = self._engine
        name, network, _ = await self._make_network("install", internal=False)
        installer = Installer(engine, self._settings, image, self._labels("install"), name)
        try:
            return await engine.do(f"The packages of {spec.name}", lambda: installer.obtain(spec.requirements))
        finally:
            await asyncio.shield(engine.do(name, lambda: engine.remove_network(network.id)))

    async def _start_policy(self, spec: LaunchSpec, running: DockerRun) -> None:
        engine, place, image = self._engine, running.place, spec.image or self._settings.image
        packages = await self._install(spec, image)
        labels = self._labels(spec.role) | dict(spec.labels)
        volume = str(place.volume)
        volumes = {volume: {"bind": "/policy", "mode": "ro"}}
        if packages is not None:
            volumes[packages] = {"bind": FOLDER, "mode": "ro"}

        def start() -> None:
            engine.make_volume(volume, spec.directory, image, labels)
            container = engine.client.containers.create(
                image,
                command=[*lifetime(spec), *place.fill(spec.command)],
                name=place.name,
                labels=labels,
                network=place.name,
                networking_config={place.name: engine.client.api.create_endpoint_config(ipv4_address=place.address)},
                working_dir="/policy",
                volumes=volumes,
                cpuset_cpus=as_cpuset(self._cores.common),
                **hardened(spec, {"PYTHONPATH": FOLDER} if packages is not None else {}),
            )
            container.start()

        await engine.do(spec.name, start)
        await running.note_start()

    async def _start_environment(self, spec: LaunchSpec, running: DockerRun) -> None:
        place = running.place
        options = hardened(spec, {}, as_json=True) | {
            "image": spec.image or self._settings.image,
            "container_name": place.name,
            "env_vars": dict(spec.environment),
            "labels": self._labels(spec.role) | dict(spec.labels),
            "network": place.name,
            "address": place.address,
            "command": place.fill(spec.command),
            "cpuset_cpus": as_cpuset(self._cores.common),
            "tty": False,
            "stdin_open": False,
        }
        options.pop("environment")
        loading = asyncio.create_task(self._run.affinetes.ask({"load": options, "way": place.way}))
        try:
            # affinetes would look at a dead server's address for three minutes.
            while not (await asyncio.wait({loading}, timeout=_LOOK_S))[0]:
                await running.raise_if_dead()
            await loading
        except EnvironmentFault as error:
            raise EnvironmentFault(
                f"{spec.name} can't be started: {error.message}", code="environment_start"
            ) from error
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        await running.note_start()

    def _labels(self, role: str) -> dict[str, str]:
        return {RUN_LABEL: self._run.name, HOME_LABEL: self._settings.home, ROLE_LABEL: role}


def _affinetes_environment(tunnel: Tunnel | None) -> dict[str, str]:
    """Ours, less any proxy, which would be asked for our containers; with the engine that is meant."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | ({"DOCKER_HOST": tunnel.engine_url} if tunnel else {})


def _subnets(settings: DockerSettings) -> Iterator[IPv4Network]:
    """One after the other, from a random one: an address comes back only after all the others."""
    # Half of a subnet is for callers; of that half the last address is the broadcast.
    prefix = 32 - max(3, (settings.callers + 1).bit_length() + 1)
    every = list(settings.subnets.subnets(new_prefix=prefix))
    first = secrets.randbelow(len(every))
    return itertools.cycle(every[first:] + every[:first])

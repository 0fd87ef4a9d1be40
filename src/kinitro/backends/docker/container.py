"""One started container: its address, what became of it, its last output, its end."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from kinitro.backends.base import LaunchSpec, Role
from kinitro.backends.docker.cores import as_cpuset
from kinitro.backends.docker.engine import Engine
from kinitro.backends.docker.watch import EngineWatch
from kinitro.errors import EnvironmentFault, InfrastructureError
from kinitro.logs import get_logger

_log = get_logger("docker")
PORT = 8000
_SCRATCH_BYTES = 512 * 1024 * 1024
_PROCESSES = 256
_FILES = 4096
_GONE = 137
_POLICY_SHARES = 512
_ENVIRONMENT_SHARES = 8192
_NAME_SERVER = "127.0.0.1"
"""The container's own loopback, where nobody answers: names fail at once instead of after a wait."""
_EVENTS_DELAY_S = 0.25


@dataclass(frozen=True)
class Place:
    """Where a container runs: its name, which its network has too, its address, the volume with its files."""

    name: str
    network: Any  # the SDK's
    subnet: IPv4Network
    volume: str | None
    title: str
    host: str
    way: str | None = None
    """The URL under which we reach it, where its address means nothing to this machine."""

    @property
    def address(self) -> str:
        """The first after the gateway's: never given to anyone else."""
        return str(self.subnet[2])

    def fill(self, command: Sequence[str]) -> list[str]:
        """The command with its own address: it listens there alone, so nobody of another network it joins calls it."""
        return [part.replace("{host}", self.address).replace("{port}", str(PORT)) for part in command]


def hardened(spec: LaunchSpec, extra: Mapping[str, str], *, as_json: bool = False) -> dict[str, Any]:
    """What every container gets: the SDK's options for no rights, limits and one writable folder.

    `as_json` leaves the SDK's own types as the arguments to make them from.
    """
    limits = spec.limits
    log = {"type": "json-file", "config": {"max-size": "512k", "max-file": "2"}}
    ulimits = [{"name": "nofile", "soft": _FILES, "hard": _FILES}]
    # No core dumps, and no message queues: they would be one more place to fill.
    ulimits += [{"name": name, "soft": 0, "hard": 0} for name in ("core", "msgqueue")]
    options: dict[str, Any] = {
        "environment": _environment(spec) | dict(extra),
        "read_only": True,
        "tmpfs": {"/tmp": f"size={_SCRATCH_BYTES},mode=1777,noexec,nosuid,nodev"},  # noqa: S108 - in the container
        "shm_size": 64 * 1024 * 1024,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": limits.processes or _PROCESSES,
        "ipc_mode": "private",
        "init": True,
        "restart_policy": {"Name": "no"},
        "dns": [_NAME_SERVER],
    }
    # Under load environments go first: one that stands still can't tell a late policy from a late machine.
    options["cpu_shares"] = _POLICY_SHARES if spec.role is Role.POLICY else _ENVIRONMENT_SHARES
    if limits.memory_bytes:
        options |= {"mem_limit": str(limits.memory_bytes), "memswap_limit": str(limits.memory_bytes)}
    if limits.cpus and spec.role is Role.POLICY:
        # An environment that is throttled would be late, and lateness is what policies are judged by.
        options["nano_cpus"] = int(limits.cpus * 1e9)
    options |= {"log_config": log, "ulimits": ulimits}
    if limits.gpus:
        options["device_requests"] = [{"count": limits.gpus, "capabilities": [["gpu"]]}]
    return options if as_json else options | sdk_types(options)


def lifetime(spec: LaunchSpec) -> list[str]:
    """What goes before the command so that it ends in time. Who kills this kills the container: it is its only child.

    An engine that is killed can leave a container running that nobody knows any more.
    """
    seconds = spec.limits.lifetime_s
    return [] if seconds is None else ["timeout", "--signal=KILL", f"{seconds:.0f}"]


def sdk_types(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the SDK has types of its own for, made from plain arguments."""
    from docker.types import DeviceRequest, LogConfig, Ulimit

    return {
        "log_config": LogConfig(**options["log_config"]),
        "ulimits": [Ulimit(**limit) for limit in options["ulimits"]],
        "device_requests": [DeviceRequest(**request) for request in options.get("device_requests", ())],
    }


def _environment(spec: LaunchSpec) -> dict[str, str]:
    threads = str(max(1, math.ceil(spec.limits.cpus))) if spec.limits.cpus else "1"
    hints = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), threads
    )
    own = {"HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}  # noqa: S108 - in the container
    return own | hints | dict(spec.environment)


class DockerRun:
    """One container. What the engine says of it now is what counts, never what it said at the start."""

    def __init__(
        self, engine: Engine, watch: EngineWatch, place: Place, *, on_stopped: Callable[["DockerRun"], Awaitable[None]]
    ) -> None:
        self.place = place
        self._engine = engine
        self._watch = watch
        self._losses = watch.losses
        self._on_stopped = on_stopped
        self._identity = ""
        self._exit_code: int | None = None
        self._attached: DockerRun | None = None
        self._note = ""
        self._excuse: InfrastructureError | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._paused = False
        self._cpuset: str | None = None
        self.cores: set[int] = set()
        """What it has of episodes' processors now."""

    @property
    def url(self) -> str:
        """Base URL for whom the backend connects."""
        return f"http://{self.place.address}:{PORT}"

    @property
    def own_url(self) -> str:
        """Base URL for us."""
        return self.place.way or self.url

    @property
    def host(self) -> str:
        """The Docker host that it runs on."""
        return self.place.host

    @property
    def authorization(self) -> str | None:
        """None: nobody but those that we connect can call it."""
        return None

    @property
    def identity(self) -> str:
        """Container id and start time, as the last look at it found them."""
        return self._identity

    async def exit_code(self) -> int | None:
        """None while it lives. `InfrastructureError` when someone killed it, or the engine went away under it."""
        if self._excuse is not None:
            raise self._excuse
        if self._exit_code is not None:
            return self._exit_code
        state = await self._look()
        if state["Status"] in ("created", "running", "paused", "restarting"):
            return None
        await asyncio.sleep(_EVENTS_DELAY_S)  # what killed it is told a little later
        if self._stopping is None and not self._note:
            self._raise_if_not_its_own_doing()
        self._exit_code = int(state["ExitCode"])
        return self._exit_code

    async def logs(self, lines: int = 20) -> str:
        """Its last lines of output, and the reason when it ran out of memory or was ended by us."""
        engine, name = self._engine, self.place.name

        def read() -> str:
            from docker.errors import NotFound

            with contextlib.suppress(NotFound):
                container = engine.client.containers.get(name)
                text: str = container.logs(tail=lines).decode(errors="replace")
                memory = container.attrs["State"].get("OOMKilled")
                notes = ("[killed: out of memory]" if memory else "", self._note)
                return "\n".join([text.rstrip("\n"), *filter(None, notes)])
            return ""

        return await engine.do(self.place.title, read)

    async def stamped_output(self, lines: int) -> bytes:
        """Its last lines of output, each behind the time at which the engine got it; nothing when it is gone."""
        engine, name = self._engine, self.place.name

        def read() -> bytes:
            from docker.errors import NotFound

            with contextlib.suppress(NotFound):
                text: bytes = engine.client.containers.get(name).logs(tail=lines, timestamps=True)
                return text
            return b""

        return await engine.do(self.place.title, read)

    async def end(self, note: str, excuse: InfrastructureError | None = None) -> None:
        """Kills it on our own account; `note` stands below its last output. With an `excuse`, that is what its end
        is put down to; without one its end is its own fault.
        """
        self._note, self._excuse = note, excuse
        engine, name = self._engine, self.place.name

        def kill() -> None:
            from docker.errors import APIError

            with contextlib.suppress(APIError):  # it has ended
                engine.client.containers.get(name).kill()

        await engine.do(self.place.title, kill)

    async def note_start(self) -> None:
        """Reads its identity for the first time."""
        await self._look()

    async def raise_if_dead(self) -> None:
        """`EnvironmentFault` with its last output, once it has ended. Nothing happens before it exists."""
        state = await self._look()
        if state["Status"] in ("exited", "dead"):
            raise EnvironmentFault(
                f"it ended with exit code {state['ExitCode']}. Its last output:\n{await self.logs()}",
                code="environment_start",
            )

    async def attach_to(self, callee: "DockerRun") -> None:
        """Joins the callee's network; leaves the one joined before."""
        if self._attached is callee:
            return
        before, self._attached = self._attached, None
        engine, name = self._engine, self.place.name

        def change() -> None:
            from docker.errors import APIError

            if before is not None:
                with contextlib.suppress(APIError):  # the network may be gone with its policy
                    before.place.network.disconnect(name, force=True)
            callee.place.network.connect(name)

        await engine.do(f"{self.place.title} on the network of {callee.place.title}", change)
        self._attached = callee

    async def pause(self) -> None:
        """Freezes it. Nothing happens when it has ended."""
        if not self._paused:
            self._paused = await self._try(lambda container: container.pause())

    async def resume(self) -> None:
        """Lets it go on. Nothing happens when it has ended or was not paused."""
        if self._paused:
            await self._try(lambda container: container.unpause())
            self._paused = False

    async def keep_to(self, common: Sequence[int]) -> None:
        """Keeps it to its episodes' processors, or to `common` while it has no episode."""
        wanted = as_cpuset(sorted(self.cores) or common)
        if not wanted or wanted == self._cpuset or self._stopping is not None:
            return
        if await self._try(lambda container: container.update(cpuset_cpus=wanted)):
            self._cpuset = wanted

    async def _try(self, change: Callable[[Any], object]) -> bool:  # Any: the SDK's container
        """Changes the living container; false when it has ended, which is for others to judge."""
        engine, name = self._engine, self.place.name

        def attempt() -> bool:
            from docker.errors import APIError, NotFound

            try:
                change(engine.client.containers.get(name))
            except NotFound:
                return False
            except APIError:
                if engine.client.containers.get(name).status in ("running", "paused"):
                    raise
                return False
            return True

        return await engine.do(self.place.title, attempt)

    async def stop(self, grace_s: float = 2.0) -> None:
        """Removes container, network and volume; a caller that is cancelled does not cancel the ending."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_s))
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float) -> None:
        engine, place = self._engine, self.place

        def remove() -> int:
            code = _end_container(engine, place.name, grace_s)
            engine.remove_network(place.network.id)
            _remove_volume(engine, place.volume)
            return code

        code = _GONE
        try:
            code = await engine.do(place.title, remove)
        except InfrastructureError as error:
            # The engine is away. What is left carries this run's label, and goes at its end.
            _log.warning("container_left", name=place.name, error=error.message)
        finally:
            self._exit_code = code
            await self._on_stopped(self)

    async def _look(self) -> dict[str, Any]:
        engine, name = self._engine, self.place.name

        def inspect() -> dict[str, Any]:
            from docker.errors import NotFound

            with contextlib.suppress(NotFound):
                found: dict[str, Any] = engine.client.api.inspect_container(name)
                return found
            return {}

        found = await engine.do(self.place.title, inspect)
        if not found:
            return {"Status": "removed" if self._identity else "created", "ExitCode": _GONE}
        state: dict[str, Any] = found["State"]
        self._identity = f"{found['Id']}@{state['StartedAt']}"
        return state

    def _raise_if_not_its_own_doing(self) -> None:
        container_id = self._identity.partition("@")[0]
        if self._watch.losses != self._losses:
            raise InfrastructureError(
                f"{self.place.title} ended when the Docker engine went away.", code="docker_restarted"
            )
        if self._watch.was_killed(container_id):
            raise InfrastructureError(
                f"The container of {self.place.title} was killed or stopped from outside.", code="container_killed"
            )


def _end_container(engine: Engine, name: str, grace_s: float) -> int:
    from docker.errors import APIError, NotFound

    code = _GONE
    with contextlib.suppress(NotFound):
        container = engine.client.containers.get(name)
        if grace_s > 0:
            container.stop(timeout=math.ceil(grace_s))
        else:
            with contextlib.suppress(APIError):  # it is not running
                container.kill()
        container.reload()
        code = int(container.attrs["State"]["ExitCode"])
        container.remove(force=True)
    return code


def _remove_volume(engine: Engine, name: str | None) -> None:
    from docker.errors import NotFound

    if name is not None:
        with contextlib.suppress(NotFound):
            engine.client.volumes.get(name).remove(force=True)

"""Where an executor's servers run, by its `--eval-mode`, and how each kind is started there."""

import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kinitro.backends.base import Backend
from kinitro.backends.process import ProcessBackend
from kinitro.environments.base import EnvironmentSpec
from kinitro.environments.workers import ENVIRONMENT_SERVER, EnvironmentLaunch
from kinitro.errors import ConfigurationError
from kinitro.logs import get_logger
from kinitro.settings import ExecutorSettings, home_directory

if TYPE_CHECKING:
    from kinitro.backends.docker import DockerSettings

_log = get_logger("executor")
_WAITING_NOTE = "each episode has processors to itself: those beyond the hosts' processors wait their turn"
_IDLE_S = 1800  # an engine that is killed can leave a container running that it no longer knows: it must end by itself
_IN_IMAGE = ("python", "/app/env.py", "--host", "{host}", "--port", "{port}", "--idle-exit", str(_IDLE_S))


@dataclass(frozen=True)
class Stage:
    """`python` is the interpreter's name where policies run, `policy_image` what they run in, if anything.

    `max_concurrent` is how many episodes may run at once.
    """

    backend: Backend
    python: str
    policy_image: str | None
    environments: EnvironmentLaunch
    max_concurrent: int
    policy_image_digest: str | None = None


@asynccontextmanager
async def open_stage(
    settings: ExecutorSettings, environments: Sequence[EnvironmentSpec], environment_server: Sequence[str] | None
) -> AsyncIterator[Stage]:
    """The stage of the settings; leaving the block stops everything that was started on it.

    `environment_server` replaces the usual command. Raises `ConfigurationError` when something that this mode needs
    is missing, or policies would not be isolated.
    """
    match settings.eval_mode:
        case "process":
            async with _processes(settings, environment_server) as stage:
                yield stage
        case "docker":
            async with _containers(settings, environments, environment_server) as stage:
                yield stage
        case "basilica":
            raise ConfigurationError(
                "This version can't run --eval-mode basilica yet.",
                advice="Use --eval-mode docker.",
            )


@asynccontextmanager
async def _processes(settings: ExecutorSettings, environment_server: Sequence[str] | None) -> AsyncIterator[Stage]:
    _log.warning(
        "no_isolation",
        note="--eval-mode process runs policies as plain processes of this user, for trusted policies only; "
        "a policy's requirements.txt is not installed, it gets this Python's packages",
    )
    async with ProcessBackend() as backend:
        launch = EnvironmentLaunch(environment_server or ENVIRONMENT_SERVER)
        yield Stage(backend, sys.executable, None, launch, settings.max_concurrent or os.cpu_count() or 1)


@asynccontextmanager
async def _containers(
    settings: ExecutorSettings, environments: Sequence[EnvironmentSpec], environment_server: Sequence[str] | None
) -> AsyncIterator[Stage]:
    from kinitro.backends.docker import DockerFleet  # noqa: PLC0415 - optional

    images = {spec.family: f"kinitro/{spec.family}:v1" for spec in environments} | settings.eval_images
    served = {spec.family for spec in environments}
    async with DockerFleet(docker_hosts(settings)) as backend:
        digests = {
            family: await backend.ensure_image(images[family], f"kinitro env build {family} --tag {images[family]}")
            for family in sorted(served)
        }
        launch = EnvironmentLaunch(
            command=environment_server or _IN_IMAGE,
            images=images,
            digests=digests,
            passed_on=(),
            memory_bytes=parse_size(settings.eval_mem_limit),
            gpus=settings.eval_gpu_count,
        )
        rooms = {host: room or 1 for host, room in backend.hosts.items()}
        _log.info("isolation_proved", images=images, policy_image=settings.miner_deployment_image, episodes=rooms)
        most = settings.max_concurrent or sum(rooms.values())
        if most > sum(rooms.values()):
            _log.warning("more_episodes_than_processors", max_concurrent=most, note=_WAITING_NOTE)
        runner = settings.miner_deployment_image
        digest = await backend.ensure_image(runner, "kinitro env build miner")
        yield Stage(backend, "python", runner, launch, most, digest)


def docker_hosts(settings: ExecutorSettings) -> list["DockerSettings"]:
    """What the Docker backend of each host is told."""
    from kinitro.backends.docker import DockerSettings  # noqa: PLC0415 - optional

    return [
        DockerSettings(
            home_directory(),
            settings.miner_deployment_image,
            host=host,
            policy_cpus=settings.miner_deployment_cpu,
            kept_cores=settings.eval_kept_cores,
        )
        for host in settings.eval_hosts
    ]


def parse_size(text: str) -> int:
    """Bytes of a size as Docker (`8g`) or Kubernetes (`8Gi`) writes it; Docker's letters mean powers of 1024 too.

    Raises `ConfigurationError` for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]i?)?b?", text.strip().lower())
    if match is None:
        raise ConfigurationError(f"{text!r} is not a size.", advice="Write it as 4Gi or 4g.")
    power = {None: 0, "k": 1, "m": 2, "g": 3}[match[2][0] if match[2] else None]
    return int(float(match[1]) * 1024**power)

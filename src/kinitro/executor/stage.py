"""Where an executor's servers run, by its `--eval-mode`, and how each kind is started there."""

import importlib.util
import math
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from kinitro.backends.base import Backend, Source
from kinitro.backends.process import ProcessBackend
from kinitro.deployments.limits import HubLimits
from kinitro.deployments.pod import pod_program
from kinitro.deployments.readiness import told_as_not_ready
from kinitro.environments.base import EnvironmentSpec
from kinitro.environments.registry import images_of
from kinitro.environments.remote import EnvironmentServerPerEpisode
from kinitro.environments.workers import ENVIRONMENT_SERVER, EnvironmentLaunch
from kinitro.errors import ConfigurationError
from kinitro.executor.sizes import docker_size, kubernetes_size
from kinitro.logs import get_logger
from kinitro.schemas import DeploymentUsage, Usage
from kinitro.settings import ExecutorSettings, home_directory
from kinitro.types import EvalMode, PolicyRef

if TYPE_CHECKING:
    from kinitro.backends.basilica import BasilicaSettings
    from kinitro.backends.docker import DockerSettings

_log = get_logger("executor")
_EVAL_MEMORY = "KINITRO_EXECUTOR_EVAL_MEM_LIMIT"
_POLICY_MEMORY = "KINITRO_EXECUTOR_MINER_DEPLOYMENT_MEMORY"
_BASILICA = "https://api.basilica.ai"
_HUB = "https://huggingface.co"
_MARGIN_S = 120.0
_WAITING_NOTE = "each episode has processors to itself: those beyond the hosts' processors wait their turn"
_POLICY_LIFE_S = 6 * 3600.0
_IDLE_S = 1800  # an engine that is killed can leave a container running that it no longer knows: it must end by itself
_IN_IMAGE = ("python", "/app/env.py", "--host", "{host}", "--port", "{port}", "--idle-exit", str(_IDLE_S))


@dataclass(frozen=True)
class Stage:
    """`python` is the interpreter's name where policies run, `policy_image` what they run in, if anything.

    `max_concurrent` is how many episodes may run at once, `max_age_s` how old a policy's server may get; `usage` tells
    what a cloud service was asked for, where one is. `beyond_s` is what a task may take here besides the policy's
    warm-up and the time of one evaluation.
    """

    backend: Backend
    python: str
    policy_image: str | None
    environments: EnvironmentLaunch
    max_concurrent: int
    max_age_s: float = math.inf
    usage: Callable[[], Usage | None] = lambda: None
    policy_image_digest: str | None = None
    beyond_s: float = 0.0


@asynccontextmanager
async def open_stage(
    settings: ExecutorSettings, environments: Sequence[EnvironmentSpec], environment_server: Sequence[str] | None
) -> AsyncIterator[Stage]:
    """The stage of the settings; leaving the block stops everything that was started on it.

    `environment_server` replaces the usual command. Raises `ConfigurationError` when something that this mode needs
    is missing, or policies would not be isolated.
    """
    images = images_of((spec.family for spec in environments), settings.eval_images)
    match settings.eval_mode:
        case EvalMode.PROCESS:
            async with _processes(settings, environment_server) as stage:
                yield stage
        case EvalMode.DOCKER:
            async with _containers(settings, images, environment_server) as stage:
                yield stage
        case EvalMode.BASILICA:
            async with _deployments(settings, images) as stage:
                yield stage


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
    settings: ExecutorSettings, images: Mapping[str, str], environment_server: Sequence[str] | None
) -> AsyncIterator[Stage]:
    from kinitro.backends.docker import DockerFleet  # noqa: PLC0415 - optional

    async with DockerFleet(docker_hosts(settings)) as backend:
        digests = {
            family: await backend.ensure_image(images[family], f"kinitro env build {family} --tag {images[family]}")
            for family in images
        }
        launch = EnvironmentLaunch(
            command=environment_server or _IN_IMAGE,
            images=images,
            digests=digests,
            passed_on=(),
            memory_bytes=docker_size(settings.eval_mem_limit or "8g", _EVAL_MEMORY),
            gpus=settings.eval_gpu_count,
        )
        rooms = {host: room or 1 for host, room in backend.hosts.items()}
        _log.info("isolation_proved", images=images, policy_image=settings.miner_deployment_image, episodes=rooms)
        most = settings.max_concurrent or sum(rooms.values())
        if most > sum(rooms.values()):
            _log.warning("more_episodes_than_processors", max_concurrent=most, note=_WAITING_NOTE)
        runner = settings.miner_deployment_image
        digest = await backend.ensure_image(runner, "kinitro env build miner")
        yield Stage(backend, "python", runner, launch, most, max_age_s=_POLICY_LIFE_S, policy_image_digest=digest)


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


@asynccontextmanager
async def _deployments(settings: ExecutorSettings, images: Mapping[str, str]) -> AsyncIterator[Stage]:
    from kinitro.backends.basilica import BasilicaBackend  # noqa: PLC0415 - optional

    kubernetes_size(settings.miner_deployment_memory, _POLICY_MEMORY)
    memory_bytes = kubernetes_size(settings.eval_mem_limit or "8Gi", _EVAL_MEMORY)
    chosen = _basilica_settings(settings)
    await _insist_on_reading_only(settings)
    async with BasilicaBackend(chosen) as backend:
        _log.info("basilica_ready", url=chosen.url, images=images, policy_image=chosen.image)
        launch = EnvironmentLaunch(
            images=images,
            passed_on=(),
            memory_bytes=memory_bytes,
            client=lambda running, _: EnvironmentServerPerEpisode(running),  # type: ignore[arg-type]  # this backend's
        )
        yield Stage(
            backend,
            "python",
            chosen.image,
            launch,
            settings.max_concurrent or os.cpu_count() or 1,
            max_age_s=settings.miner_deployment_ttl_seconds,
            usage=lambda: {role: DeploymentUsage(**asdict(usage)) for role, usage in backend.usage().items()},  # type: ignore[misc]  # Role's values are Usage's keys
            # Both deployments' starts, the policy's files and packages, and a far simulator's own clock.
            beyond_s=2 * chosen.start_s + chosen.download_s + chosen.install_s + settings.eval_timeout,
        )


def _basilica_settings(settings: ExecutorSettings) -> "BasilicaSettings":
    from kinitro.backends.basilica import BasilicaSettings, checked_address  # noqa: PLC0415 - optional

    limits, warmup_s = HubLimits.chosen(), settings.miner_deployment_warmup_timeout
    return BasilicaSettings(
        state=home_directory(),
        token=basilica_token(settings),
        url=checked_address(os.environ.get("BASILICA_API_URL") or _BASILICA, "BASILICA_API_URL"),
        image=settings.miner_deployment_image,
        program=pod_program,
        hub=checked_address(os.environ.get("HF_ENDPOINT") or _HUB, "HF_ENDPOINT"),
        confirm=_confirm(settings),
        hub_token=settings.miner_hf_token,
        max_repo_bytes=limits.max_bytes,
        max_repo_files=limits.max_files,
        min_gpu_memory_gb=settings.miner_deployment_min_gpu_memory_gb,
        # Handed out up to the TTL; an episode that began then must still be able to end.
        lifetime_s=settings.miner_deployment_ttl_seconds
        + (3 * warmup_s + BasilicaSettings.download_s + BasilicaSettings.install_s)
        + 2 * settings.eval_timeout
        + _MARGIN_S,
        start_s=warmup_s,
    )


def _confirm(settings: ExecutorSettings) -> Callable[[Source], Awaitable[None]] | None:
    """Asks the hub for a policy again, as the snapshot cache did when it got it."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from kinitro.deployments.hub import HuggingFaceHub  # noqa: PLC0415 - optional, and slow to import

    hub = HuggingFaceHub(settings.miner_hf_token)

    async def confirm(source: Source) -> None:
        with told_as_not_ready():
            await hub.confirm(PolicyRef(source.repo, source.revision))

    return confirm


def basilica_token(settings: ExecutorSettings) -> SecretStr:
    """Ours, else the one that the SDK reads. `ConfigurationError` when there is none."""
    ours = settings.miner_basilica_api_token
    if ours is not None and ours.get_secret_value():
        return ours
    if token := os.environ.get("BASILICA_API_TOKEN"):
        return SecretStr(token)
    raise ConfigurationError(
        "No miner endpoint available: Basilica mode has no token for the service.",
        advice="Set KINITRO_EXECUTOR_MINER_BASILICA_API_TOKEN (or BASILICA_API_TOKEN), or use --eval-mode docker.",
    )


async def _insist_on_reading_only(settings: ExecutorSettings) -> None:
    """A pod gets the hub's token to download with: one that could write must never be there."""
    token = settings.miner_hf_token
    if token is not None and token.get_secret_value():
        from kinitro.deployments.hub import HuggingFaceHub  # noqa: PLC0415 - optional

        await HuggingFaceHub(token).require_read_only()

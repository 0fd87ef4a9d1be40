"""Launches deployments at Basilica: policies by its SDK, environments by affinetes in a process of its own.

What exists there costs money, so everything is deleted when it is not needed any more, whatever happens: by whoever
used it, by a look at the service every half minute, by the affinetes process when we are killed, and by the next start.
"""

import asyncio
import base64
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO

import httpx

from kinitro.backends.affinetes import AffinetesHost
from kinitro.backends.base import LaunchSpec, Memory, Role, Running, Source
from kinitro.backends.basilica.environment import EnvironmentPod
from kinitro.backends.basilica.failures import Failures
from kinitro.backends.basilica.meter import Meter, Usage
from kinitro.backends.basilica.policy import PolicyPod
from kinitro.backends.basilica.protocol import CONFIG_VARIABLE, SECRET_VARIABLE, TOKEN_VARIABLE, PodConfig
from kinitro.backends.basilica.service import TOKEN_ADVICE, Basilica, Wanted
from kinitro.backends.basilica.settings import HOST, RUN_DIGITS, BasilicaSettings, Names, is_of_call, is_of_run
from kinitro.backends.basilica.sweep import delete, sweep
from kinitro.backends.runs import begin_run
from kinitro.errors import ConfigurationError, InfrastructureError
from kinitro.logs import get_logger

_log = get_logger("basilica")
_MAX_PROGRAM_BYTES = 90_000
"""As base64, what one argument of a command may hold (128 KiB)."""
_LOADER = (
    "import base64,os,sys,tempfile;"
    "p=os.path.join(tempfile.mkdtemp(),'pod.pyz');"
    "open(p,'wb').write(base64.b64decode(sys.argv[1]));"
    "os.execv(sys.executable,[sys.executable,'-I',p])"
)


@dataclass(frozen=True)
class _Run:
    """What belongs to one life of a backend."""

    name: str
    lock: IO[str]
    names: Names
    service: Basilica
    affinetes: AffinetesHost
    http: httpx.AsyncClient
    looking: "asyncio.Task[None]"


class BasilicaBackend:
    """Starts servers as deployments. An async context manager: entering it proves the token, leaving it deletes all.

    Entering raises `ConfigurationError` when the SDK is missing or the token refused, `InfrastructureError` when the
    service can't be asked.
    """

    isolates = True
    enforces = frozenset({"memory_bytes", "cpus", "gpus"})

    def __init__(self, settings: BasilicaSettings) -> None:
        self._settings = settings
        self._meter = Meter()
        self._pods: set[PolicyPod] = set()
        self._calls: set[str] = set()
        self._failures = Failures()
        self._run_: _Run | None = None

    async def __aenter__(self) -> "BasilicaBackend":
        settings = self._settings
        service = Basilica(settings.url, settings.token.get_secret_value(), settings.first_pause_s)
        await _prove_access(service)
        if swept := await sweep(service, settings.runs):
            _log.warning("deployments_swept", count=swept, note="left by executors that were killed")
        try:
            await self._begin(service).affinetes.start()
        except BaseException:
            await asyncio.shield(self.close())
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def hosts(self) -> Mapping[str, int | None]:
        """The service; nothing is known of what its machines can take."""
        return {HOST: None}

    def usage(self) -> Mapping[str, Usage]:
        """What this run's deployments came to, by role."""
        return self._meter.usage()

    async def launch(self, spec: LaunchSpec) -> Running:
        """A policy's deployment, once the policy was started in it; for an environment nothing yet.

        Raises `PolicyError` when its files or requirements are refused there, or the hub has it no more;
        `InfrastructureError` when the service or the pod fails. What failed so is tried again later and later.
        """
        if spec.role is Role.ENVIRONMENT:
            return self._environment(spec)
        if spec.source is None:
            return await self._start(spec)
        self._failures.raise_if_too_soon(spec.source)
        await self._confirm(spec.source)
        try:
            pod = await self._start(spec)
        except InfrastructureError as error:
            self._failures.add(spec.source, error)
            if error.code == "hub_refused":
                await self._confirm(spec.source)
            raise
        self._failures.forget(spec.source)
        return pod

    async def _confirm(self, source: Source) -> None:
        """Raises `PolicyError` when its author took it away since we have it, as for who has not."""
        if self._settings.confirm is not None:
            await self._settings.confirm(source)

    async def _start(self, spec: LaunchSpec) -> PolicyPod:
        secret = secrets.token_urlsafe(32)
        run = self._run
        pod = PolicyPod(run.service, run.http, self._wanted(spec, secret), secret, spec.name, self._on_stopped)
        self._pods.add(pod)
        self._meter.begin(pod.wanted.name, Role.POLICY)
        try:
            await pod.start(self._start_s(spec))
        except BaseException:
            await asyncio.shield(pod.stop())
            raise
        return pod

    def _start_s(self, spec: LaunchSpec) -> float:
        settings = self._settings
        download_s = settings.download_s if spec.source else 0.0
        return settings.start_s + download_s + (settings.install_s if spec.requirements else 0.0)

    async def connect(self, caller: Running, callee: Running) -> None:
        """Nothing to do: a policy's front lets in whoever has its secret, from anywhere."""

    @asynccontextmanager
    async def reserve(self, *_: Running) -> AsyncIterator[None]:
        """Reserves nothing: each deployment has its own."""
        yield

    async def memory(self, host: str) -> Memory:
        """`InfrastructureError`: the service does not say."""
        raise InfrastructureError(f"The memory of {host} can't be read.", code="memory_unknown")

    async def close(self) -> None:
        """Deletes everything of this run. Safe to call twice."""
        run, self._run_ = self._run_, None
        if run is None:
            return
        run.looking.cancel()
        await asyncio.gather(*(pod.stop() for pod in list(self._pods)), return_exceptions=True)
        await run.affinetes.close()  # it looks for what is left
        await run.http.aclose()
        run.lock.close()
        self._log_usage()

    @property
    def _run(self) -> _Run:
        if self._run_ is None:
            raise InfrastructureError("The Basilica backend is closed.", code="closed")
        return self._run_

    def _begin(self, service: Basilica) -> _Run:
        settings = self._settings
        name, lock = begin_run(settings.runs, RUN_DIGITS)
        token = {"BASILICA_API_TOKEN": settings.token.get_secret_value(), "BASILICA_API_URL": settings.url}
        options = ("--run", name, "--runs", str(settings.runs))
        affinetes = AffinetesHost(
            "kinitro.backends.basilica.affinetes_worker", options, (lock.fileno(),), dict(os.environ) | token
        )
        http = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(None), follow_redirects=False)
        looking = asyncio.create_task(self._look())
        self._run_ = _Run(name, lock, Names(name), service, affinetes, http, looking)
        return self._run_

    # Starting

    def _environment(self, spec: LaunchSpec) -> EnvironmentPod:
        if spec.image is None:
            raise InfrastructureError(
                f"{spec.name} can't be started: at Basilica an environment is an image, and none is named.",
                code="launch_failed",
                advice="Set KINITRO_EXECUTOR_EVAL_IMAGES.",
            )
        return EnvironmentPod(self._run.affinetes, self._call_scope, spec, self._settings.start_s)

    def _wanted(self, spec: LaunchSpec, secret: str) -> Wanted:
        settings = self._settings
        environment = {CONFIG_VARIABLE: self._config(spec).text(), SECRET_VARIABLE: secret}
        if settings.hub_token is not None and spec.source is not None:
            environment[TOKEN_VARIABLE] = settings.hub_token.get_secret_value()
        return Wanted(
            name=self._run.names.policy(),
            image=spec.image or settings.image,
            limits=spec.limits,
            min_gpu_memory_gb=settings.min_gpu_memory_gb,
            environment=environment,
            lifetime_s=settings.lifetime_s,
            command=("python", "-c", _LOADER, self._program(spec)),
        )

    def _config(self, spec: LaunchSpec) -> PodConfig:
        source, settings = spec.source, self._settings
        return PodConfig(
            command=spec.command,
            environment=dict(spec.environment),
            repo=source.repo if source else None,
            revision=source.revision if source else "",
            digest=source.digest if source else "",
            hub=settings.hub,
            max_bytes=settings.max_repo_bytes,
            max_files=settings.max_repo_files,
        )

    def _program(self, spec: LaunchSpec) -> str:
        """The pod's program, with the folder's files when no hub has them."""
        packed = self._settings.program(None if spec.source else spec.directory)
        if len(packed) > _MAX_PROGRAM_BYTES:
            raise InfrastructureError(
                f"{spec.name} can't be started: its folder is too large to hand over without a hub.",
                code="launch_failed",
                advice="Upload it: `kinitro miner deploy`.",
            )
        return base64.b64encode(packed).decode()

    # Ending

    def _on_stopped(self, pod: PolicyPod) -> None:
        self._pods.discard(pod)
        if pod.is_deleted:
            self._meter.end(pod.wanted.name)

    @asynccontextmanager
    async def _call_scope(self) -> AsyncIterator[str]:
        call = self._run.names.call()
        self._calls.add(call)
        self._meter.begin(call, Role.ENVIRONMENT)
        try:
            yield call
        finally:
            self._calls.discard(call)
            await asyncio.shield(self._end_call(call))

    async def _end_call(self, call: str) -> None:
        """Affinetes deletes too, if it got that far."""
        service = self._run.service
        try:
            left = [name for name in await service.names() if is_of_call(name, call)]
        except InfrastructureError as error:
            _log.warning("deployments_not_seen", call=call, code=error.code, error=error.message)
            return
        if all([await delete(service, name) for name in left]):
            self._meter.end(call)

    async def _look(self) -> None:
        """Deletes, again and again, what of this run nobody needs and is still there."""
        while True:
            await asyncio.sleep(self._settings.look_s)
            with contextlib.suppress(InfrastructureError):  # those who need the service now say so
                await self._delete_unneeded()
            self._log_usage()

    async def _delete_unneeded(self) -> None:
        run = self._run
        present = {name for name in await run.service.names() if is_of_run(name, run.name)}
        needed = {pod.wanted.name for pod in self._pods} | self._calls
        for name in present:
            if name not in needed and not any(is_of_call(name, call) for call in needed):
                _log.warning("deployment_unneeded", name=name)
                await delete(run.service, name)
        for counted in self._meter.alive() - needed:
            if not any(name == counted or is_of_call(name, counted) for name in present):
                self._meter.end(counted)

    def _log_usage(self) -> None:
        for role, usage in self.usage().items():
            if usage.created:
                _log.info(
                    "deployment_usage",
                    role=role,
                    created=usage.created,
                    alive=usage.alive,
                    seconds_alive=round(usage.seconds, 1),
                )


async def _prove_access(service: Basilica) -> None:
    try:
        await service.names()
    except InfrastructureError as error:
        if error.code == "basilica_refused":
            raise ConfigurationError(error.message, advice=TOKEN_ADVICE) from error
        raise

"""One policy's deployment: a pod with our front in it, called over the public internet."""

import asyncio
from collections.abc import Callable

import httpx

from kinitro.backends.basilica.protocol import STATE_PATH, PodState
from kinitro.backends.basilica.service import Basilica, NotThere, Wanted
from kinitro.backends.basilica.settings import HOST
from kinitro.backends.basilica.sweep import delete
from kinitro.errors import InfrastructureError, PolicyError

_STATE_TIMEOUT_S = 10.0
_MAX_STATE_BYTES = 64 * 1024
_LONGEST_PAUSE_S = 2.0
_ASK_SERVICE_S = 5.0
_LOG_LINES = 15
_LOOKS = 2
_STOPPED = -9
_FAILED = 1
_RESTARTED = 137


class PolicyPod:
    """One deployment from its creation to its deletion.

    Whose fault its end is: the front tells of the policy's own exit; a deployment that the service no longer has,
    though nobody asked for that, is ours; a container that was started again ended by what the policy did in it.
    """

    def __init__(
        self,
        service: Basilica,
        http: httpx.AsyncClient,
        wanted: Wanted,
        secret: str,
        title: str,
        on_stopped: Callable[["PolicyPod"], None],
    ) -> None:
        self.wanted = wanted
        self.is_deleted = False
        self._service = service
        self._http = http
        self._secret = secret
        self._title = title
        self._on_stopped = on_stopped
        self._url = ""
        self._boot = ""
        self._exit_code: int | None = None
        self._stopping: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where everybody can reach its front."""
        return self._url

    @property
    def own_url(self) -> str:
        """The same, for us."""
        return self.url

    @property
    def host(self) -> str:
        """The service."""
        return HOST

    @property
    def authorization(self) -> str | None:
        """What opens its front."""
        return f"Bearer {self._secret}"

    @property
    def identity(self) -> str:
        """The deployment's name and its container's start."""
        return f"{self.wanted.name}@{self._boot}"

    async def start(self, within_s: float) -> None:
        """Makes the deployment and waits for its front, which comes when the policy's files and packages are there.

        Raises:
            PolicyError: its files or requirements are refused in the pod.
            InfrastructureError: the service failed, `deployment_not_ready`, `deployment_vanished`,
                `deployment_failed`, or what the pod says.
        """
        self._url = (await self._service.create(self.wanted)).url
        state = await self._first_state(within_s)
        if state.fault == "policy":
            raise PolicyError(state.message, code=state.code)
        if state.fault is not None:
            raise InfrastructureError(f"{self._title} can't be started: {state.message}", code=state.code)
        self._boot = state.boot

    async def exit_code(self) -> int | None:
        """None while it lives, as far as can be seen. `InfrastructureError` when the service has lost it."""
        for _ in range(_LOOKS):
            if self._exit_code is not None:
                return self._exit_code
            if (state := await self._state()) is not None:
                return _RESTARTED if state.boot != self._boot else state.exit_code
            if await self._has_failed():
                return _FAILED
        return None

    async def logs(self, lines: int = 20) -> str:
        """Its last lines of output, as far as the service has them."""
        try:
            return await self._service.logs(self.wanted.name, lines)
        except NotThere:
            return ""
        except InfrastructureError as error:
            return f"[{error.message}]"

    async def pause(self) -> None:
        """Nothing: the service can't."""

    async def resume(self) -> None:
        """Nothing: it was not paused."""

    async def stop(self, grace_s: float = 2.0) -> None:  # noqa: ARG002 - the service decides how it ends a pod
        """Deletes the deployment; a caller that is cancelled does not cancel the deletion."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self._exit_code = _STOPPED
        try:
            # If it can't be, the backend looks for what is left, again and again.
            self.is_deleted = await delete(self._service, self.wanted.name)
        finally:
            self._on_stopped(self)

    async def _first_state(self, within_s: float) -> PodState:
        loop = asyncio.get_running_loop()
        began = asked = loop.time()
        pause_s = 0.1
        while (state := await self._state()) is None:
            now = loop.time()
            if now - began >= within_s:
                raise InfrastructureError(
                    f"Miner deployment not ready: {self._title} has not answered {within_s:g} s after its deployment "
                    f"{self.wanted.name} was made. Its last output:\n{await self.logs(_LOG_LINES)}",
                    code="deployment_not_ready",
                    advice="Check that Basilica can pull KINITRO_EXECUTOR_MINER_DEPLOYMENT_IMAGE, "
                    "or raise --miner-deployment-warmup-timeout.",
                )
            if now - asked >= _ASK_SERVICE_S or pause_s == _LONGEST_PAUSE_S:
                asked = now
                await self._raise_if_failed()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        return state

    async def _raise_if_failed(self) -> None:
        if await self._has_failed():
            raise InfrastructureError(
                f"{self._title} can't be started: its deployment {self.wanted.name} has failed. Its last output:\n"
                f"{await self.logs(_LOG_LINES)}",
                code="deployment_failed",
            )

    async def _has_failed(self) -> bool:
        """What the service says of it. `InfrastructureError` when it is not there any more."""
        try:
            return (await self._service.find(self.wanted.name)).failed
        except NotThere as error:
            raise InfrastructureError(
                f"The deployment {self.wanted.name} of {self._title} has vanished from Basilica; we did not delete it.",
                code="deployment_vanished",
            ) from error

    async def _state(self) -> PodState | None:
        """What its front says; None when nobody answers, or somebody else."""
        headers = {"Authorization": f"Bearer {self._secret}"}
        try:
            async with asyncio.timeout(_STATE_TIMEOUT_S):
                async with self._http.stream("GET", self._url + STATE_PATH, headers=headers) as reply:
                    content = bytearray()
                    async for chunk in reply.aiter_bytes():
                        content += chunk
                        if len(content) > _MAX_STATE_BYTES:
                            return None
                    return PodState.read(bytes(content)) if reply.status_code == 200 else None
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, ValueError):
            return None

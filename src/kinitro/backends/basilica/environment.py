"""An environment at Basilica: a deployment of its own for each episode, made and called by affinetes."""

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from kinitro.backends.affinetes import AffinetesHost
from kinitro.backends.base import LaunchSpec
from kinitro.backends.basilica.service import cpu_text, memory_text, translated
from kinitro.backends.basilica.settings import HOST
from kinitro.errors import EnvironmentFault

CallScope = Callable[[], AbstractAsyncContextManager[str]]
"""Gives a call's id for the length of a block, and deletes what affinetes made for it."""


class EnvironmentPod:
    """Nothing runs between calls, so it is always ready and costs nothing while idle."""

    def __init__(self, affinetes: AffinetesHost, scope: CallScope, spec: LaunchSpec, start_s: float) -> None:
        self._affinetes = affinetes
        self._scope = scope
        self._spec = spec
        self._start_s = start_s
        self._stopped = False

    @property
    def url(self) -> str:
        """Empty: each call has another one."""
        return ""

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
        """None: it is called through affinetes."""
        return None

    @property
    def identity(self) -> str:
        """Its image: there is no process to tell from another."""
        return str(self._spec.image)

    async def exit_code(self) -> int | None:
        """None until it is stopped."""
        return 0 if self._stopped else None

    async def logs(self, lines: int = 20) -> str:  # noqa: ARG002 - every backend is called alike
        """Nothing: a deployment's output goes with it."""
        return ""

    async def pause(self) -> None:
        """Nothing: the service can't."""

    async def resume(self) -> None:
        """Nothing: it was not paused."""

    async def stop(self, grace_s: float = 2.0) -> None:  # noqa: ARG002 - as above
        """It is not called any more."""
        self._stopped = True

    async def call(
        self, method: str, body: Mapping[str, object], environment: Mapping[str, str], deadline_s: float
    ) -> object:
        """One call of a new deployment, which sees these variables; the deployment is gone when this returns.

        `deadline_s` is for the call itself; a deployment gets `start_s` more to get ready. Raises `EnvironmentFault`.
        """
        try:
            async with self._scope() as call, asyncio.timeout(self._start_s + deadline_s):
                return await self._affinetes.ask(
                    {
                        "method": method,
                        "task_id": call,
                        "body": dict(body),
                        "load": {
                            "image": self._spec.image,
                            "env_vars": dict(self._spec.environment) | dict(environment),
                            "mem_limit": memory_text(self._spec.limits),
                            "cpu_limit": cpu_text(self._spec.limits),
                            "ttl_buffer": math.ceil(self._start_s + deadline_s),
                        },
                    }
                )
        except TimeoutError as error:
            raise EnvironmentFault(
                f"{self._spec.name} did not answer within {self._start_s:g} s for its deployment to start and "
                f"{deadline_s:g} s for the episode.",
                code="environment_timeout",
            ) from error
        except EnvironmentFault as error:
            raise self._fault(error) from error

    def _fault(self, error: EnvironmentFault) -> EnvironmentFault:
        if error.code == "affinetes_ended":
            return error
        # affinetes passes the SDK's text on, and that alone says what kind of failure it was.
        known = translated("run an episode", RuntimeError(error.message))
        code = "environment_start" if known.code == "basilica_error" else known.code
        return EnvironmentFault(
            f"{self._spec.name} could not run an episode: {error.message}", code=code, advice=known.advice
        )

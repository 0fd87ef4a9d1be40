"""The Basilica service: the one file that imports its SDK. Every failure of it is ours, never a policy's.

Its SDK raises Python's own errors, with little more than a text in them. Reading and deleting are tried again; so is
creating, since a name can be taken only once: what a lost answer left behind is found by its name.
"""

import asyncio
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from kinitro.backends.base import Limits
from kinitro.backends.basilica.settings import is_private
from kinitro.backends.threads import in_daemon_thread
from kinitro.errors import ConfigurationError, InfrastructureError, how_to_install

T = TypeVar("T")

_CALL_TIMEOUT_S = 60.0
_ATTEMPTS = 4
_MEMORY_BYTES = 4 * 2**30
_QUOTA = re.compile(r"quota|insufficient|balance|payment|limit reached", re.IGNORECASE)
_RATE = re.compile(r"rate limit|too many requests", re.IGNORECASE)
_FAILED = re.compile(r"fail|error|crash|backoff|oom|evict|terminat", re.IGNORECASE)
TOKEN_ADVICE = "Set KINITRO_EXECUTOR_MINER_BASILICA_API_TOKEN (or BASILICA_API_TOKEN) to a valid token of Basilica."  # noqa: S105
_CODES = {
    "basilica_refused": TOKEN_ADVICE,
    "basilica_quota": "Raise the account's quota or balance at Basilica, or lower --max-concurrent.",
    "basilica_rate_limited": "Lower --max-concurrent, or ask Basilica for a higher limit.",
    "basilica_unreachable": "Check the network and BASILICA_API_URL.",
    "basilica_error": None,
}


@dataclass(frozen=True)
class Wanted:
    """One deployment to be made. `command` None is the image's own."""

    name: str
    image: str
    limits: Limits
    environment: Mapping[str, str]
    lifetime_s: float
    min_gpu_memory_gb: int | None = None
    command: Sequence[str] | None = None


@dataclass(frozen=True)
class Seen:
    """A deployment as the service tells of it. `created_at` tells it from a later one of the same name."""

    name: str
    url: str
    state: str
    created_at: str

    @property
    def failed(self) -> bool:
        """Whether its state says that it does not run, and will not by waiting."""
        return bool(_FAILED.search(self.state))


class NotThere(Exception):
    """No deployment of this name exists."""


class _Exists(Exception):
    """The name is taken."""


class Basilica:
    """One account at the service. Every method raises `InfrastructureError` with a code of `_CODES`."""

    def __init__(self, url: str, token: str, first_pause_s: float = 1.0) -> None:
        try:
            import basilica  # noqa: PLC0415 - optional
        except ImportError as error:
            raise ConfigurationError(
                f"Basilica mode needs its SDK: {error}.", advice=how_to_install("basilica")
            ) from error
        # Any: the SDK's client.
        self._client: Any = basilica.BasilicaClient(url, token)
        self._first_pause_s = first_pause_s

    async def create(self, wanted: Wanted) -> Seen:
        """Makes the deployment; it may not run for a while. Refuses an address that others could listen in on."""
        first = True

        def create() -> Seen:
            nonlocal first
            again, first = not first, False
            try:
                return _seen(self._create(wanted))
            except RuntimeError as error:
                if again and "conflict" in str(error).lower():
                    raise _Exists from error
                raise

        try:
            seen = await self._ask(f"create {wanted.name}", create)
        except _Exists:
            # An earlier try came through, only its answer did not.
            seen = await self.find(wanted.name)
        if not is_private(seen.url):
            await self.delete(seen.name)
            raise InfrastructureError(
                f"Basilica gives {seen.name} the address {seen.url!a}, which is not https: nothing is sent there.",
                code="basilica_error",
            )
        return seen

    async def find(self, name: str) -> Seen:
        """How it is now. Raises `NotThere`."""
        return await self._ask(f"look at {name}", lambda: _seen(self._client.get_deployment(name)))

    async def names(self) -> list[str]:
        """Every deployment of the account."""
        found = await self._ask("list deployments", lambda: self._client.list_deployments().deployments)
        return [str(one.instance_name) for one in found]

    async def logs(self, name: str, lines: int) -> str:
        """Its last lines of output. Raises `NotThere`."""
        text = await self._ask(f"read logs of {name}", lambda: self._client.get_deployment_logs(name, tail=lines))
        return "\n".join(str(text).splitlines()[-lines:])

    async def delete(self, name: str) -> None:
        """Deletes it; one that is not there is deleted."""
        try:
            await self._ask(f"delete {name}", lambda: self._client.delete_deployment(name))
        except NotThere:
            return

    def _create(self, wanted: Wanted) -> Any:  # the SDK's
        gpus = wanted.limits.gpus
        return self._client.create_deployment(
            instance_name=wanted.name,
            image=wanted.image,
            port=8000,
            command=list(wanted.command) if wanted.command else None,
            env=dict(wanted.environment),
            cpu=cpu_text(wanted.limits),
            memory=memory_text(wanted.limits),
            gpu_count=gpus or None,
            min_gpu_memory_gb=wanted.min_gpu_memory_gb if gpus else None,
            ttl_seconds=int(wanted.lifetime_s),
            public=True,
        )

    async def _ask(self, what: str, call: Callable[[], T]) -> T:
        for attempt in range(_ATTEMPTS):
            try:
                async with asyncio.timeout(_CALL_TIMEOUT_S):
                    return await in_daemon_thread(call)
            except KeyError as error:
                raise NotThere from error
            except (OSError, RuntimeError, ValueError) as error:
                verdict = translated(what, error)
                if verdict.code in ("basilica_refused", "basilica_quota") or attempt + 1 == _ATTEMPTS:
                    raise verdict from error
            # Not for security: executors must not all come back at the same moment.
            await asyncio.sleep(self._first_pause_s * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        raise AssertionError("there is at least one attempt")


def cpu_text(limits: Limits) -> str:
    """Processors as Kubernetes writes them; 1 where there is no limit."""
    return f"{math.ceil((limits.cpus or 1.0) * 1000)}m"


def memory_text(limits: Limits) -> str:
    """Memory as Kubernetes writes it; 4 GiB where there is no limit, since a deployment has one in any case."""
    return f"{math.ceil((limits.memory_bytes or _MEMORY_BYTES) / 2**20)}Mi"


def translated(what: str, error: Exception) -> InfrastructureError:
    """The SDK's error in our words. A quota comes as a refusal, a rate limit as any other failure."""
    text = str(error) or type(error).__name__
    code = "basilica_error"
    if _RATE.search(text):
        code = "basilica_rate_limited"
    elif _QUOTA.search(text):
        code = "basilica_quota"
    elif isinstance(error, PermissionError) or "Authentication" in text:
        code = "basilica_refused"
    elif isinstance(error, OSError):  # ConnectionError and TimeoutError among them
        code = "basilica_unreachable"
    problem = {
        "basilica_refused": f"Basilica refuses our token, asked to {what}",
        "basilica_unreachable": f"Basilica can't be reached to {what}",
    }.get(code, f"Basilica could not {what}")
    return InfrastructureError(f"{problem}: {text[:500]}.", code=code, advice=_CODES[code])


def _seen(found: Any) -> Seen:  # the SDK's reply
    return Seen(str(found.instance_name), str(found.url).rstrip("/"), str(found.state), str(found.created_at))

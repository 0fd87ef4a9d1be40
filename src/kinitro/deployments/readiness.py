"""When a policy server that was just started is ready, or that it will not be."""

import asyncio
import contextlib
from collections.abc import Iterator

from kinitro.backends.base import Running
from kinitro.errors import InfrastructureError, PolicyError
from kinitro.policy.client import PolicyClient
from kinitro.policy.messages import PolicyHealth

_LOG_LINES = 15
_NOT_READY = "Miner deployment not ready"
"""The guide's heading for all that keeps a policy from its first healthy answer."""
_NOT_READY_ADVICE = (
    "Check that the policy's server.py starts (`kinitro miner serve PATH`), that the HuggingFace token is valid, "
    "or raise --miner-deployment-warmup-timeout."
)


async def until_ready(running: Running, timeout_s: float) -> PolicyHealth:
    """Waits for the server's first healthy answer with its model loaded.

    Raises `PolicyError`: `died_at_start` as soon as the process ends, `not_ready` after `timeout_s`.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    pause, reason = 0.02, "no answer to GET /health"
    async with PolicyClient(running.own_url, authorization=running.authorization) as client:
        while (left := end - loop.time()) > 0:
            if (code := await running.exit_code()) is not None:
                raise PolicyError(
                    f"{_NOT_READY}: the policy's server ended at its start with exit code {code}. Its last output:\n"
                    f"{await running.logs(_LOG_LINES)}",
                    code="died_at_start",
                    advice="Run it as we do: `kinitro miner serve PATH`.",
                )
            try:
                health = await client.health(min(left, 5.0))
                if health.model_loaded:
                    return health
                reason = "GET /health says that the model is not loaded"
            except PolicyError as error:
                reason = error.message
            await asyncio.sleep(min(pause, max(0.0, end - loop.time())))
            pause = min(pause * 1.5, 1.0)
    raise PolicyError(
        f"{_NOT_READY} after {timeout_s:g} s: {reason} Its last output:\n{await running.logs(_LOG_LINES)}",
        code="not_ready",
        advice=_NOT_READY_ADVICE,
    )


@contextlib.contextmanager
def told_as_not_ready() -> Iterator[None]:
    """What fails in this block before a server is even started is told under the same heading."""
    try:
        yield
    except (PolicyError, InfrastructureError) as error:
        error.message = f"{_NOT_READY}: {error.message}"
        raise

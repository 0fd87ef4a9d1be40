"""The way to a Docker host's engine: here, or behind SSH."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing

from kinitro.backends.base import LOCAL_HOST
from kinitro.backends.docker.engine import Engine
from kinitro.backends.docker.tunnel import Tunnel


@asynccontextmanager
async def connected(host: str) -> AsyncIterator[tuple[Engine, Tunnel | None]]:
    """The host's engine, and the tunnel to it when it is not this machine's.

    `ConfigurationError` when there is no SDK, no way or no engine.
    """
    async with AsyncExitStack() as stack:
        tunnel = None
        if host != LOCAL_HOST:
            tunnel = Tunnel(host)
            stack.push_async_callback(tunnel.close)
            await tunnel.open()
        engine = await asyncio.to_thread(Engine.connect, tunnel.engine_url if tunnel else None)
        stack.enter_context(closing(engine))
        yield engine, tunnel

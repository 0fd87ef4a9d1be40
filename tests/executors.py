"""An executor in the test's own process."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from kinitro.executor import build_executor
from kinitro.settings import ExecutorSettings


@asynccontextmanager
async def executing(chosen: Mapping[str, object], **parts) -> AsyncIterator[asyncio.Task[None]]:
    """Runs one with these settings for the length of the block; leaving it asks it to end, in order.

    `parts` are `build_executor`'s.
    """
    async with build_executor(ExecutorSettings.load(**chosen), **parts) as executor:
        task = asyncio.create_task(executor.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})

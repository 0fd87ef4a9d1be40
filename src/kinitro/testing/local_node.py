"""A local Bittensor node for tests: a folder with a `node.py` that speaks the real protocol on 127.0.0.1.

`KINITRO_TEST_CHAIN_NODE` names the folder. The node also answers `dev_...` calls, which plant and inspect state.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "KINITRO_TEST_CHAIN_NODE"
NOT_THERE = f"{VARIABLE} does not name a folder with node.py, a local Bittensor node"
_DEADLINE_S = 60.0


@dataclass(frozen=True)
class LocalNode:
    """A running node."""

    url: str
    genesis: str

    async def dev(self, name: str, *params: object) -> Any:  # Any: whatever JSON the call answers
        """Calls `dev_<name>`. A call that never answers by nature (`drop`) raises `ConnectionError`."""
        from websockets.asyncio.client import connect  # noqa: PLC0415 - comes with the `chain` extra
        from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - likewise

        request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": f"dev_{name}", "params": list(params)})
        async with asyncio.timeout(_DEADLINE_S), connect(self.url, max_size=2**28) as socket:
            try:
                await socket.send(request)
                answer = json.loads(await socket.recv())
            except ConnectionClosed as error:
                raise ConnectionError(str(error)) from error
        if "error" in answer:
            raise ValueError(f"dev_{name}: {answer['error']}")
        return answer["result"]


def node_folder() -> Path | None:
    """Where the node is, or None where there is none."""
    named = os.environ.get(VARIABLE)
    folder = Path(named).absolute() if named else None
    return folder if folder is not None and (folder / "node.py").is_file() else None


@asynccontextmanager
async def run_node(
    folder: Path, *, block_time_s: float = 0.2, rate_limit: int = 0, port: int = 0
) -> AsyncIterator[LocalNode]:
    """Starts a node on a port (0: a free one), and ends it. A `block_time_s` of 0 makes a block a write."""
    options = ["--port", str(port), "--block-time", str(block_time_s), "--rate-limit", str(rate_limit)]
    # The SDK keeps caches in the home directory; a test leaves nobody's changed.
    with tempfile.TemporaryDirectory(prefix="kinitro-node-") as home:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(folder / "node.py"),
            *options,
            env=os.environ | {"HOME": home},
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_DEADLINE_S):
                ready = json.loads(await process.stdout.readline())
            yield LocalNode(ready["ready"], ready["genesis"])
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

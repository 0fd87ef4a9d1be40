"""A local Bittensor node, one for each module, where there is one to start."""

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from kinitro.testing.local_node import NOT_THERE, LocalNode, node_folder, run_node


@pytest.fixture(scope="session", autouse=True)
def sdk_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The SDK's caches are the tests' own; their places are read when it is first imported."""
    folder = tmp_path_factory.mktemp("bittensor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(folder))
        patch.setenv("BTCLI_TOKEN_SYMBOLS_CACHE", str(folder / "symbols.json"))
        yield


@pytest.fixture(scope="session")
def node_folder_or_skip(sdk_caches: None) -> Path:
    folder = node_folder()
    if folder is None:
        pytest.skip(NOT_THERE)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node(node_folder_or_skip: Path) -> AsyncIterator[LocalNode]:
    async with run_node(node_folder_or_skip) as running:
        yield running


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

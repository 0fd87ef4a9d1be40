"""A local Bittensor node, one for each module, where there is one to start."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from kinitro.testing.local_node import NOT_THERE, LocalNode, node_folder, run_node

_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def sdk_caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The SDK's caches are the tests' own; their places are read when it is first imported."""
    folder = tmp_path_factory.mktemp("bittensor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(folder))
        patch.setenv("BTCLI_TOKEN_SYMBOLS_CACHE", str(folder / "symbols.json"))
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def node(sdk_caches: None) -> AsyncIterator[LocalNode]:
    folder = node_folder()
    if folder is None:
        pytest.skip(NOT_THERE)
    async with run_node(folder) as running:
        yield running


@pytest.fixture
def new_uri() -> str:
    """The derivation path of a key nobody else has."""
    return f"//test{next(_numbers)}"


@pytest.fixture
def wallets(tmp_path: Path) -> Path:
    return tmp_path / "wallets"

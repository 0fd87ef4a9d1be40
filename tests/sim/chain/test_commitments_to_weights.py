"""The whole way on a local Bittensor node and a local hub, with real processes: commitments, a cycle, weights set."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest

from kinitro.client import KinitroClient
from kinitro.errors import ApiError, ApiUnreachable
from kinitro.schemas import WeightsOut
from kinitro.testing.hub import HubRepo, LocalHub, serving
from kinitro.testing.local_node import NOT_THERE, LocalNode, node_folder, run_node
from kinitro.types import MinerState

ENVIRONMENT = "metaworld/drawer-close-v3"
DEADLINE_S = 100


def key(name: str):
    from bittensor.sp_core import Keypair

    return Keypair.create_from_uri(f"//{name}")


@dataclass(frozen=True)
class Place:
    """A user's home with wallets in it, the hub and the node it talks to."""

    home: Path
    hub: LocalHub
    hub_url: str
    node: LocalNode
    netuid: int
    port: int

    def wallet(self, name: str) -> None:
        import bittensor

        wallet = bittensor.Wallet(name.lower(), "default", path=str(self.home / ".bittensor" / "wallets"))
        wallet.hotkey_file.set_keypair(key(name), encrypt=False, overwrite=True)

    def upload(self, repo: str, owner: str, policy: str) -> str:
        source = files("kinitro")
        contents = {
            "policy.py": (source / "demo" / "policies" / policy / "policy.py").read_bytes(),
            "server.py": (source / "policy" / "server.py").read_bytes(),
            "requirements.txt": b"",
            "kinitro.json": json.dumps({"hotkey": key(owner).ss58_address}).encode(),
        }
        kept = {path: self.hub.keep(content) for path, content in contents.items()}
        return self.hub.add_commit(HubRepo(repo, private=False), kept)

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("BT_", "KINITRO_"))}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kinitro", *words),
            cwd=self.home,
            env=clean | {"HOME": str(self.home), "KINITRO_HOME": str(self.home / "k"), "HF_ENDPOINT": self.hub_url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def run(self, *words: str) -> str:
        process = await self.start(*words)
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        return out.decode()

    async def commit(self, name: str, repo: str, revision: str) -> None:
        await self.run("miner", "commit", "--repo", repo, "--revision", revision, *self.chain(name))

    def chain(self, wallet: str | None = None) -> list[str]:
        flags = ["--network", self.node.url, "--netuid", str(self.netuid)]
        return [*flags, "--wallet-name", wallet.lower()] if wallet else flags

    @asynccontextmanager
    async def services(self) -> AsyncIterator[KinitroClient]:
        await self.run("db", "init")
        url = f"http://127.0.0.1:{self.port}"
        started = [
            await self.start("api", "--port", str(self.port)),
            await self.start("scheduler", *self.chain(), "--episodes-per-env", "2", "--environments", ENVIRONMENT),
            await self.start("executor", "--api-url", url, "--eval-mode", "process", "--poll-interval", "0.3"),
        ]
        # What they say is read, or they would stop when the pipe is full.
        said = [asyncio.create_task(process.communicate()) for process in started]
        try:
            async with KinitroClient(url) as client:
                yield client
        finally:
            for process in reversed(started):
                process.terminate()
            for number, (out, _) in enumerate(await asyncio.gather(*said)):
                (self.home / f"service-{number}.log").write_bytes(out)


@pytest.fixture(params=[1, 2], ids=["plain", "timelocked"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    folder = node_folder()
    if folder is None:
        pytest.skip(NOT_THERE)
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hub = LocalHub(tmp_path / "hub")
    async with run_node(folder, block_time_s=0.5) as node, serving(hub) as url:
        yield Place(tmp_path, hub, url, node, request.param, port)


async def first_weights(client: KinitroClient) -> WeightsOut:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await client.weights()
            except (ApiError, ApiUnreachable):
                await asyncio.sleep(0.5)


@pytest.mark.timeout(180)
async def test_the_better_policy_is_paid_on_chain_and_the_thief_is_not(place: Place) -> None:
    for name in ("Alice", "Bob", "Charlie", "Dave"):
        place.wallet(name)
    lazy = place.upload("bob/policy", "Bob", "noop")
    good = place.upload("charlie/policy", "Charlie", "one_trick")
    await place.commit("Bob", "bob/policy", lazy)
    await place.commit("Dave", "charlie/policy", good)
    await place.commit("Charlie", "charlie/policy", good)
    async with place.services() as client:
        weights = await first_weights(client)
        states = {miner.uid: miner.state for miner in await client.miners()}
        backend = ["--backend-url", f"http://127.0.0.1:{place.port}", "--once"]
        said = await place.run("validate", *backend, *place.chain("Alice"))
    assert states == {1: MinerState.EVALUATED, 2: MinerState.EVALUATED, 3: MinerState.REJECTED}
    assert weights.weights == {2: 1.0}
    if place.netuid == 1:
        assert "(plain)" in said
        assert await place.node.dev("weights", 1) == {"0": [[2, 65535]]}
    else:
        assert "(commit-reveal)" in said
        (sealed,) = await place.node.dev("timelocked", 2)
        assert sealed[0] == "0x" + bytes(key("Alice").public_key).hex()

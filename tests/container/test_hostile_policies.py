"""Policies that attack. One executor runs them all beside an honest one: each ends with the fault that is due."""

import asyncio
import json
import os
import re
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kinitro.backends.base import LaunchSpec, Limits, Role
from kinitro.backends.docker.output import NOTE
from kinitro.demo.miners import MINERS, write_folder
from kinitro.policy import server as policy_server
from kinitro.schemas import ResultIn
from kinitro.testing.backend_suite import until_answering, until_exited
from kinitro.types import ErrorKind, PolicyRef

from .conftest import docker, left_over, until
from .hostile import ANSWERS, BEHAVES, LOOKS, REQUIREMENTS, Case

ENV_ID = "metaworld/drawer-close-v3"
TOKEN = "hf_canary0of0the0executor"
WARMUP_S, ACTION_S, RESET_S = 8.0, 4.0, 30.0


@pytest.fixture
def add(tmp_path: Path, store) -> Callable[[str, Case], PolicyRef]:
    def add(name: str, case: Case) -> PolicyRef:
        name = name.replace(" ", "-")
        folder = tmp_path / "policies" / name
        folder.mkdir(parents=True)
        (folder / "server.py").write_text(Path(policy_server.__file__).read_text())
        for file, text in case.files.items():
            (folder / file).write_text(text)
        return store.add_local(folder, f"tests/{name}")

    return add


@pytest.fixture
def honest(tmp_path: Path, store) -> PolicyRef:
    """A bundled policy that closes the drawer."""
    write_folder(MINERS[2], tmp_path / "honest")
    return store.add_local(tmp_path / "honest", MINERS[2].repo)


def is_ours(result: ResultIn) -> bool:
    return result.error_kind is ErrorKind.INFRASTRUCTURE


def own_addresses() -> list[str]:
    """Every address of this host's own."""
    found = re.findall(r"\|-- ([0-9.]+)\n +/32 host LOCAL", Path("/proc/net/fib_trie").read_text())
    return sorted({address for address in found if not address.startswith("127.")})


@asynccontextmanager
async def host_service() -> AsyncIterator[tuple[int, list[str]]]:
    """A careless service of this host, on all its addresses: its port, and who called."""
    callers: list[str] = []

    def called(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(writer.get_extra_info("peername")[0])
        writer.close()

    server = await asyncio.start_server(called, "0.0.0.0", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], callers


@pytest.mark.timeout(420)
async def test_policies_that_break_down_or_answer_badly_fail_and_harm_nobody(api, add, run_executor, honest) -> None:
    expected, unharmed = {}, []
    for name, case in (REQUIREMENTS | BEHAVES | ANSWERS).items():
        (expected[name],) = api.add(add(name, case), env_id=ENV_ID)
        if len(expected) % 4 == 1:
            unharmed += api.add(honest, env_id=ENV_ID)  # the same seed each time
    wanted = {*expected.values(), *unharmed}
    limits = {"miner_deployment_memory": "300m", "miner_deployment_cpu": 0.5, "action_timeout": ACTION_S}
    limits["eval_kept_cores"] = 0  # two at once on two processors
    async with run_executor(max_timesteps=60, miner_deployment_warmup_timeout=WARMUP_S, max_concurrent=3, **limits):
        # A wait in which this machine stood still is nobody's fault, and runs again.
        await until(lambda: wanted <= {task for task, found in api.results.items() if not is_ours(found)}, 360)
    for name, case in (REQUIREMENTS | BEHAVES | ANSWERS).items():
        result = api.results[expected[name]]
        assert (result.error_kind, result.success) == (ErrorKind.POLICY, False), (name, result.error)
        assert case.words in result.error, (name, result.error)
        assert result.policy_seconds < WARMUP_S + RESET_S + 60 * ACTION_S, name
        if "endless" in name or "slow" in name:
            assert result.policy_seconds < WARMUP_S + RESET_S + 2 * ACTION_S, name
    assert {api.results[task].error for task in unharmed} == {None}
    assert len({api.results[task].trace_digest for task in unharmed}) == 1
    assert left_over() == []


@pytest.mark.timeout(300)
async def test_a_policy_that_looks_around_finds_nothing(api, add, run_executor, honest, state: Path) -> None:
    tasks = {}
    async with host_service() as (port, callers):
        known = {"port.json": port, "hosts.json": own_addresses(), "home.json": str(state)}
        known["canary.json"] = TOKEN[::-1]  # turned round, so that its own files don't hold it
        for name, case in LOOKS.items():
            files = case.files | {file: json.dumps(value) for file, value in known.items()}
            (tasks[name],) = api.add(add(name, replace(case, files=files)), env_id=ENV_ID)
        neighbours = api.add(honest, 1, env_id=ENV_ID)
        options = {"miner_hf_token": TOKEN, "api_key": TOKEN, "action_timeout": 30.0}
        async with run_executor(max_timesteps=100, max_concurrent=2, **options):
            await until(lambda: {*tasks.values(), *neighbours} <= set(api.results), 200)
    for name, task in tasks.items():
        assert api.results[task].error_kind is ErrorKind.POLICY
        assert LOOKS[name].words in api.results[task].error, (name, api.results[task].error)
    assert callers == []


LISTING = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({"files": sorted(os.listdir("/policy"))}).encode())
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


async def test_links_and_devices_in_a_snapshot_never_reach_a_container(backend, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "server.py").write_text(LISTING)
    (folder / "link").symlink_to("/etc/shadow")
    (folder / "folder").symlink_to("/var/run", target_is_directory=True)
    os.mkfifo(folder / "fifo")
    if os.geteuid() == 0:
        os.mknod(folder / "device", 0o666 | stat.S_IFBLK, os.makedev(8, 0))
    command = ("python", "server.py", "{host}", "{port}")
    spec = LaunchSpec("The policy", Role.POLICY, command, folder, limits=Limits(memory_bytes=2**30, cpus=1.0))
    assert (await until_answering(await backend.launch(spec)))["files"] == ["server.py"]


async def test_a_flood_of_output_takes_no_room_on_this_host_and_ends_with_its_policy(backend, tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text("import os\nwhile True: os.write(1, b'x\\n' * 2**15)\n")
    command = ("python", "server.py", "{host}", "{port}")
    running = await backend.launch(LaunchSpec("The policy", Role.POLICY, command, tmp_path, limits=Limits(cpus=1.0)))
    await asyncio.sleep(2.0)
    (container,) = docker("ps", "-q", "--filter", "label=kinitro.role=policy").split()
    assert len(docker("logs", container)) < 2**20
    assert await until_exited(running, 30.0) == 137
    assert (await running.logs()).endswith(NOTE)

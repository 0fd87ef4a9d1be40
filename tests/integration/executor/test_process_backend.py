# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 - it polls real processes and files
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kinitro.backends.base import LaunchSpec, Limits
from kinitro.backends.process import ProcessBackend
from kinitro.errors import InfrastructureError
from kinitro.testing.backend_suite import BackendSuite, get, until_answering, until_exited


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def until_dead(*pids: int) -> None:
    async with asyncio.timeout(10):
        while any(alive(pid) for pid in pids):
            await asyncio.sleep(0.02)


class TestProcessBackend(BackendSuite):
    python = sys.executable

    @pytest.fixture
    async def backend(self) -> AsyncIterator[ProcessBackend]:
        async with ProcessBackend() as backend:
            yield backend

    async def test_stopping_ends_a_grandchild_that_daemonised_itself(
        self, backend: ProcessBackend, spec: LaunchSpec
    ) -> None:
        running = await backend.launch(spec)
        pids = await self._with_daemon(running)
        await running.stop()
        assert not any(alive(pid) for pid in pids)

    async def test_a_grandchild_ends_when_the_server_exits_by_itself(
        self, backend: ProcessBackend, spec: LaunchSpec
    ) -> None:
        running = await backend.launch(spec)
        pids = await self._with_daemon(running)
        with contextlib.suppress(OSError):
            await get(running, "/exit")
        await until_exited(running)
        await until_dead(*pids)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    async def test_a_supervisor_that_is_ended_takes_the_whole_tree_along_and_blames_nobody(
        self, backend: ProcessBackend, spec: LaunchSpec, number: int
    ) -> None:
        running = await backend.launch(spec)
        server, daemon = await self._with_daemon(running)
        supervisor = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(supervisor, number)
        await until_dead(server, daemon)
        with pytest.raises(InfrastructureError, match="ended from outside: its supervisor was") as caught:
            await until_exited(running)
        assert caught.value.code == "supervisor_ended"
        await running.stop()
        assert await running.exit_code() == -signal.SIGKILL

    async def test_the_exit_of_a_command_that_ends_at_once_is_never_missed(
        self, backend: ProcessBackend, spec: LaunchSpec
    ) -> None:
        # It was, by about every sixth supervisor: a finaliser took the child that had ended already.
        runs = [await backend.launch(_with_command(spec, ("sh", "-c", "exit 5"))) for _ in range(40)]
        assert {await until_exited(run) for run in runs} == {5}

    async def test_a_server_that_ignores_the_request_to_end_is_killed_after_the_grace(
        self, backend: ProcessBackend, tmp_path: Path, spec: LaunchSpec
    ) -> None:
        (tmp_path / "deaf.py").write_text(
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n"
            "time.sleep(600)"
        )
        running = await backend.launch(_with_command(spec, (sys.executable, "deaf.py")))
        while "deaf" not in await running.logs():
            await asyncio.sleep(0.02)
        began = time.monotonic()
        await running.stop(grace_s=0.3)
        assert 0.3 <= time.monotonic() - began < 3.0

    async def test_memory_above_the_limit_is_refused(self, backend: ProcessBackend, spec: LaunchSpec) -> None:
        greedy = LaunchSpec(
            name="greedy",
            role=spec.role,
            command=(sys.executable, "-c", "bytearray(10**9)"),
            directory=spec.directory,
            limits=Limits(memory_bytes=200 * 2**20),
        )
        running = await backend.launch(greedy)
        assert await until_exited(running) == 1
        assert "MemoryError" in await running.logs()

    async def test_nothing_is_left_on_the_disk(self, backend: ProcessBackend, spec: LaunchSpec) -> None:
        running = await backend.launch(spec)
        home = (await until_answering(running))["home"]
        await running.stop()
        assert not Path(str(home)).parent.exists()

    async def _with_daemon(self, running) -> tuple[int, int]:
        await until_answering(running)
        answer = await get(running, "/child")
        daemon = int((Path(str(answer["home"])) / "child.pid").read_text())
        server = int(running.identity.split("@")[0])
        assert alive(daemon)
        assert alive(server)
        return server, daemon


def _with_command(spec: LaunchSpec, command: tuple[str, ...]) -> LaunchSpec:
    return LaunchSpec(name=spec.name, role=spec.role, command=command, directory=spec.directory)


async def test_sigkill_of_the_parent_ends_the_whole_tree_and_cleans_up(tmp_path: Path) -> None:
    (tmp_path / "tree.py").write_text(
        textwrap.dedent("""
            import os, sys, time
            if not os.fork():
                os.setsid()
                if not os.fork():
                    print("ready", os.getpid(), os.getppid(), os.environ["HOME"], flush=True)
                    time.sleep(600)
                time.sleep(600)
            time.sleep(600)
        """)
    )
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        line = await asyncio.to_thread(parent.stdout.readline)
        server, *tree, home = line.split()
        pids = [int(server), *(int(pid) for pid in tree)]
        assert all(alive(pid) for pid in pids)
    finally:
        parent.kill()
        parent.communicate()
    await until_dead(*pids)
    async with asyncio.timeout(5):
        while Path(home).parent.exists():
            await asyncio.sleep(0.02)


_PARENT = """
import asyncio, sys
from pathlib import Path
from kinitro.backends.base import LaunchSpec, Role
from kinitro.backends.process import ProcessBackend

async def main():
    spec = LaunchSpec("tree", Role.POLICY, (sys.executable, "tree.py"), Path(sys.argv[1]))
    running = await ProcessBackend().launch(spec)
    while not (text := await running.logs()).startswith("ready"):
        await asyncio.sleep(0.02)
    print(running.identity.split("@")[0], *text.split()[1:], flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""

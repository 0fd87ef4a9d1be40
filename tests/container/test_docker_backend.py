import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kinitro.backends import Role, Running
from kinitro.backends.docker import DockerBackend, DockerSettings
from kinitro.errors import InfrastructureError
from kinitro.testing.backend_suite import BackendSuite, get, until_answering, until_exited

from .conftest import docker


class TestDockerBackend(BackendSuite):
    python = "python"

    @pytest.fixture
    async def backend(self, settings: DockerSettings) -> AsyncIterator[DockerBackend]:
        async with DockerBackend(settings) as backend:
            yield backend

    async def test_a_paused_server_does_nothing_until_it_is_resumed(self, backend, spec) -> None:
        running = await backend.launch(spec)
        await until_answering(running)
        await running.pause()
        assert await running.exit_code() is None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await get(running)
        await running.resume()
        await until_answering(running)
        await running.pause()
        await running.stop()
        assert await running.exit_code() is not None

    async def test_an_episodes_servers_have_a_processor_that_nobody_else_has(self, backend, spec) -> None:
        first, second, other = [await backend.launch(spec) for _ in range(3)]
        (room,) = backend.hosts.values()
        assert room == max(1, os.cpu_count() - 1)
        async with backend.reserve(first, second):
            mine = processors(first)
            assert processors(second) == mine
            assert len(mine) == 1
            assert not mine & processors(other)
        assert mine < processors(first) == processors(other)

    async def test_a_server_ends_by_itself_after_its_time_to_live(self, backend, spec) -> None:
        running = await backend.launch(replace(spec, limits=replace(spec.limits, lifetime_s=4)))
        await until_answering(running)
        assert await until_exited(running, 15.0) == 137

    async def test_a_gpu_that_the_host_has_not_is_told_as_our_fault(self, backend, spec) -> None:
        """What asks for one reaches the engine; on this machine there is none to give."""
        for role in Role:
            with pytest.raises(InfrastructureError, match="could not select device driver"):
                await backend.launch(replace(spec, role=role, limits=replace(spec.limits, gpus=1)))


def processors(running: Running) -> set[int]:
    """Those that the container's processes may run on, as its kernel says it."""
    line = docker("exec", running.place.name, "grep", "Cpus_allowed_list", "/proc/1/status").split()[1]
    spans = [part.partition("-") for part in line.split(",")]
    return {core for first, _, last in spans for core in range(int(first), int(last or first) + 1)}

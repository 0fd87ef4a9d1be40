from collections.abc import AsyncIterator

import pytest

from kinitro.backends.docker import DockerBackend, DockerSettings
from kinitro.testing.backend_suite import BackendSuite


class TestDockerBackend(BackendSuite):
    python = "python"

    @pytest.fixture
    async def backend(self, settings: DockerSettings) -> AsyncIterator[DockerBackend]:
        async with DockerBackend(settings) as backend:
            yield backend

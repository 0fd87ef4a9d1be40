from collections.abc import AsyncIterator

import pytest

from kinitro.backends.basilica import BasilicaBackend, BasilicaSettings
from kinitro.testing.backend_suite import BackendSuite


class TestBasilicaBackend(BackendSuite):
    python = "python"

    @pytest.fixture
    async def backend(self, settings: BasilicaSettings) -> AsyncIterator[BasilicaBackend]:
        async with BasilicaBackend(settings) as backend:
            yield backend

"""What holds for every test."""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command that a test runs in its own process sets logging up, on a stream that is closed with the test."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        root = logging.getLogger()
        root.setLevel(logging.WARNING)
        root.handlers[:] = [one for one in root.handlers if type(one) is not logging.StreamHandler]

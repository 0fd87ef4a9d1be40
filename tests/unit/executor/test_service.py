import asyncio

import pytest

from kinitro.errors import ConfigurationError
from kinitro.executor.executor import Executor
from kinitro.executor.stage import parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("4Gi", 4 * 2**30), ("8g", 8 * 2**30), ("512Mi", 2**29), ("1.5G", 3 * 2**29), ("1024", 1024)]
)
def test_sizes_are_read_as_docker_and_kubernetes_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4 apples", "-1g", "g", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a size"):
        parse_size(text)


async def test_a_cancellation_that_comes_together_with_a_change_is_not_lost() -> None:
    executor = Executor(**dict.fromkeys(("limits", "rooms", "env_ids", "link", "leases", "outbox"), None),
                        **dict.fromkeys(("deployments", "runner", "selftest"), None))  # fmt: skip

    async def wait_for_ever() -> None:
        while True:
            await executor._until_changed()

    waiting = asyncio.create_task(wait_for_ever())
    for _ in range(5):
        await asyncio.sleep(0)
    executor._tell_all()
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting}, timeout=0.5)
    assert waiting.cancelled()

import asyncio

from kinitro.executor.executor import Executor


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

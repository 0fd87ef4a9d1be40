import asyncio
import time

from kinitro.environments.episode import attributed
from kinitro.environments.stall import StallMonitor
from kinitro.errors import EnvironmentFault, PolicyError

LATE = PolicyError("The policy did not answer /act within 0.5 s.", code="timeout")


async def test_a_loop_that_runs_freely_has_no_long_stall() -> None:
    async with StallMonitor() as monitor:
        since = time.monotonic()
        await asyncio.sleep(0.1)
        assert monitor.longest_stall_s(since) < 0.05
        assert attributed(LATE, since, monitor) is LATE


async def test_a_blocked_loop_is_seen_afterwards_and_makes_lateness_ours() -> None:
    async with StallMonitor() as monitor:
        since = time.monotonic()
        await asyncio.sleep(0.02)
        time.sleep(0.12)  # noqa: ASYNC251 (blocks on purpose)
        await asyncio.sleep(0.05)
        assert 0.08 < monitor.longest_stall_s(since) < 0.2
        fault = attributed(LATE, since, monitor)
    assert isinstance(fault, EnvironmentFault)
    assert fault.code == "stalled"


async def test_a_stall_that_the_ticker_has_not_seen_yet_counts() -> None:
    async with StallMonitor() as monitor:
        await asyncio.sleep(0.02)
        since = time.monotonic()
        time.sleep(0.12)  # noqa: ASYNC251 (blocks on purpose)
        assert monitor.longest_stall_s(since) > 0.08


async def test_a_stall_before_the_wait_does_not_excuse_it() -> None:
    async with StallMonitor() as monitor:
        await asyncio.sleep(0.02)
        time.sleep(0.12)  # noqa: ASYNC251 (blocks on purpose)
        since = time.monotonic()
        await asyncio.sleep(0.05)
        assert monitor.longest_stall_s(since) < 0.05


async def test_a_stall_excuses_lateness_only() -> None:
    async with StallMonitor() as monitor:
        since = time.monotonic()
        time.sleep(0.12)  # noqa: ASYNC251 (blocks on purpose)
        wrong = PolicyError("The policy's action is not valid.", code="malformed_action")
        assert attributed(wrong, since, monitor) is wrong

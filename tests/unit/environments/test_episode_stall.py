import asyncio

from kinitro.environments.episode import attributed
from kinitro.environments.stall import StallMonitor
from kinitro.errors import EnvironmentFault, PolicyError

LATE = PolicyError("The policy did not answer /act within 0.5 s.", code="timeout")


class Clock:
    """A clock that moves only when told: a jump without a turn of the loop is a stall."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def turn() -> None:
    """Long enough for the monitor's ticker to tick."""
    await asyncio.sleep(0.03)


async def test_a_loop_that_runs_freely_excuses_nobody() -> None:
    clock = Clock()
    async with StallMonitor(clock) as monitor:
        since = clock.now
        for _ in range(5):
            clock.now += 0.012
            await turn()
        assert monitor.longest_stall_s(since) < 0.01
        assert attributed(LATE, monitor.longest_stall_s(since)) is LATE


async def test_a_blocked_loop_is_seen_afterwards_and_makes_lateness_ours() -> None:
    clock = Clock()
    async with StallMonitor(clock) as monitor:
        since = clock.now
        await turn()
        clock.now += 0.12
        await turn()
        fault = attributed(LATE, monitor.longest_stall_s(since))
    assert isinstance(fault, EnvironmentFault)
    assert fault.code == "stalled"
    assert "110 ms" in fault.message


async def test_a_stall_that_the_ticker_has_not_seen_yet_counts() -> None:
    clock = Clock()
    async with StallMonitor(clock) as monitor:
        await turn()
        since = clock.now
        clock.now += 0.12
        assert 0.1 < monitor.longest_stall_s(since) <= 0.12


async def test_a_stall_before_the_wait_does_not_excuse_it() -> None:
    clock = Clock()
    async with StallMonitor(clock) as monitor:
        await turn()
        clock.now += 0.12
        since = clock.now
        await turn()
        assert monitor.longest_stall_s(since) < 0.01


async def test_several_short_stalls_are_not_one_long_one() -> None:
    clock = Clock()
    async with StallMonitor(clock) as monitor:
        since = clock.now
        for _ in range(5):
            clock.now += 0.05
            await turn()
        assert attributed(LATE, monitor.longest_stall_s(since)) is LATE


async def test_a_stall_excuses_lateness_only() -> None:
    clock = Clock()
    async with StallMonitor(clock) as monitor:
        since = clock.now
        clock.now += 0.12
        wrong = PolicyError("The policy's action is not valid.", code="malformed_action")
        assert attributed(wrong, monitor.longest_stall_s(since)) is wrong


async def test_a_stall_counts_at_a_deadline_only_when_it_was_over_it() -> None:
    clock = Clock()
    async with StallMonitor(clock) as monitor:
        await turn()
        clock.now += 0.12
        within = clock.now - 0.05
        await turn()
        clock.now += 3.0
        await turn()
        assert 0.1 < monitor.stall_at_s(within) < 0.12
        assert monitor.stall_at_s(100.0) == 0.0
        assert monitor.stall_at_s(clock.now + 1.0) == 0.0

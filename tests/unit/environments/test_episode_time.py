"""An episode has two clocks: neither side's time is ever charged to the other."""

from collections.abc import Mapping

import pytest

from kinitro.environments.base import Step
from kinitro.environments.episode import EpisodeOutcome, EpisodeRequest, run_episode
from kinitro.environments.procthor.actions import calls
from kinitro.environments.stall import StallMonitor
from kinitro.errors import PolicyError
from kinitro.policy.client import Wait
from kinitro.policy.messages import Action, Observation, TaskConfig
from kinitro.testing.line_world import LINE_REACH
from kinitro.types import ErrorKind


class Clock:
    """Moves only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class World:
    """Never solved; `step_s` says what a step takes."""

    spec = LINE_REACH

    def __init__(self, clock: Clock, step_s: float, call_s: float = 0.0) -> None:
        self._clock, self._step_s, self._call_s = clock, step_s, call_s

    def reset(self, seed: int) -> Observation:
        self._clock.now += 5.0
        return Observation({})

    def step(self, action: Action) -> Step:
        self._clock.now += self._step_s + self._call_s * len(calls(action))
        return Step(Observation({}), 0.0, success=False)

    def state(self) -> bytes:
        return b""


class Policy:
    """Answers every observation with the same action after `wait_s`, and is late when that is past a limit."""

    def __init__(self, clock: Clock, wait_s: float, action: Action) -> None:
        self._clock, self._wait_s, self._action = clock, wait_s, action
        self.last_wait = Wait(clock.now, 0.0)

    async def reset(self, *_: object) -> None:
        self.last_wait = Wait(self._clock.now, 0.0)

    async def act(self, _observation: object, _space: object, limit_s: float) -> Action:
        started, wait_s = self._clock.now, min(self._wait_s, limit_s)
        self._clock.now += wait_s
        self.last_wait = Wait(started, wait_s)
        if self._wait_s > limit_s:
            raise PolicyError("too late", code="timeout")
        return self._action


async def run(*, wait_s: float, step_s: float = 0.0, call_s: float = 0.0, **changes: object) -> EpisodeOutcome:
    clock = Clock()
    action = changes.pop("action", Action())
    limits: Mapping[str, object] = {"max_timesteps": 500, "action_timeout_s": 0.5, "timeout_s": 300.0} | changes
    request = EpisodeRequest(TaskConfig("line/reach-v0", "line", "reach-v0", 1, "t"), 1, **limits)
    world, policy = World(clock, step_s, call_s), Policy(clock, wait_s, action)
    return await run_episode(world, policy, request, monitor=StallMonitor(lambda: 0.0), clock=clock)


@pytest.mark.parametrize("step_s", [0.001, 0.16, 0.35, 0.55])
async def test_a_slower_simulator_changes_no_verdict_on_a_policy_that_answers_in_time(step_s) -> None:
    outcome = await run(wait_s=0.45, step_s=step_s)
    assert (outcome.error_kind, outcome.timesteps) == (None, 500)


async def test_a_losing_policy_is_not_excused_by_commanding_all_that_there_is() -> None:
    everything = Action({"aim": [0.5, 0.5], "ee_twist": [1.0] * 6, "base_vel": [1.0] * 3}, {"interact": 1, "nav": 1})
    outcome = await run(wait_s=0.25, call_s=0.2, action=everything)
    assert (outcome.error_kind, outcome.timesteps) == (None, 500)


async def test_a_losing_policy_is_not_excused_by_being_slow_within_its_limits() -> None:
    outcome = await run(wait_s=0.01, step_s=0.3)
    assert (await run(wait_s=0.49, step_s=0.3)).error_kind is outcome.error_kind is None


@pytest.mark.parametrize("wait_s", [0.0, 0.05, 0.45])
async def test_a_simulator_beyond_its_own_time_is_our_fault_however_slow_the_policy(wait_s) -> None:
    outcome = await run(wait_s=wait_s, step_s=0.7)
    assert (outcome.error_kind, outcome.error_code) == (ErrorKind.INFRASTRUCTURE, "environment_slow")


@pytest.mark.parametrize("step_s", [0.0, 0.05, 2.0])
async def test_a_policy_beyond_its_own_time_is_at_fault_however_slow_the_simulator(step_s) -> None:
    outcome = await run(wait_s=4.0, step_s=step_s, action_timeout_s=5.0)
    assert (outcome.error_kind, outcome.error_code, outcome.timesteps) == (ErrorKind.POLICY, "episode_timeout", 75)
    assert outcome.policy_seconds == pytest.approx(300.0)

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from kinitro.environments.base import EnvironmentOptions, Step
from kinitro.environments.episode import EpisodeOutcome, EpisodeRequest, run_episode
from kinitro.environments.stall import StallMonitor
from kinitro.errors import EnvironmentFault
from kinitro.policy.client import PolicyClient
from kinitro.policy.messages import Action, TaskConfig
from kinitro.testing.line_world import LINE_REACH, LineWorld
from kinitro.types import ErrorKind

from .conftest import RIGHT, http_reply

STILL = {"action": {"continuous": {}}}


def never_stalled() -> float:
    """A clock that stands still: however busy this machine is, the monitor sees no stall."""
    return 0.0


async def run(
    url: str,
    world: LineWorld | None = None,
    *,
    seed: int = 1,
    stall_clock: Callable[[], float] = never_stalled,
    **limits: float,
) -> EpisodeOutcome:
    request = EpisodeRequest(
        task=TaskConfig("line/reach-v0", "line", "reach-v0", 42, "t"),
        seed=seed,
        max_timesteps=int(limits.get("max_timesteps", 50)),
        action_timeout_s=limits.get("action_timeout_s", 1.0),
        timeout_s=limits.get("timeout_s", 20.0),
    )
    wait_clock = time.monotonic if stall_clock is never_stalled else stall_clock
    async with StallMonitor(stall_clock) as monitor, PolicyClient(url, clock=wait_clock) as policy:
        world = world or LineWorld(options=EnvironmentOptions(images=False))
        return await run_episode(world, policy, request, monitor=monitor, clock=wait_clock)


def always(document: object, pause_s: float = 0.0):
    async def handler(_path, _body, writer):
        await asyncio.sleep(pause_s)
        writer.write(http_reply(document))

    return handler


async def test_the_first_success_ends_the_episode(raw_policy) -> None:
    outcome = await run(await raw_policy(always(RIGHT)))
    assert (outcome.success, outcome.score, outcome.error, outcome.error_kind) == (True, 1.0, None, None)
    assert 4 <= outcome.timesteps <= 15
    assert outcome.total_reward < 0
    assert 0 < outcome.mean_action_s <= outcome.max_action_s <= outcome.policy_seconds
    assert outcome.trace_digest is not None
    assert len(outcome.trace_digest) == 64


async def test_the_step_limit_ends_the_episode_without_anybodys_fault(raw_policy) -> None:
    outcome = await run(await raw_policy(always(STILL)), max_timesteps=7)
    assert (outcome.success, outcome.timesteps, outcome.error, outcome.error_kind) == (False, 7, None, None)
    assert outcome.trace_digest is not None


async def test_the_same_seed_and_actions_give_the_same_digest_and_others_do_not(raw_policy) -> None:
    right, still = await raw_policy(always(RIGHT)), await raw_policy(always(STILL))
    first, again, other_seed = await run(right), await run(right), await run(right, seed=2)
    other_actions = await run(still, max_timesteps=first.timesteps)
    assert first.trace_digest == again.trace_digest
    assert len({first.trace_digest, other_seed.trace_digest, other_actions.trace_digest}) == 3


async def test_the_digest_is_over_actions_as_applied(raw_policy) -> None:
    too_far = {"action": {"continuous": {"ee_twist": [50.0, 0, 0, 0, 0, 0]}, "extra": {"note": 1}}}
    clipped, right = await run(await raw_policy(always(too_far))), await run(await raw_policy(always(RIGHT)))
    assert clipped.trace_digest == right.trace_digest


async def test_a_policy_that_is_always_just_in_time_is_not_blamed(raw_policy) -> None:
    outcome = await run(await raw_policy(always(STILL, pause_s=0.6)), max_timesteps=4, action_timeout_s=1.0)
    assert (outcome.error, outcome.timesteps) == (None, 4)
    assert outcome.policy_seconds > 4 * 0.6


async def test_a_late_action_is_the_policys_and_ends_the_episode(raw_policy) -> None:
    outcome = await run(await raw_policy(always(RIGHT, pause_s=5.0)), action_timeout_s=0.3)
    assert (outcome.error_kind, outcome.error_code, outcome.timesteps) == (ErrorKind.POLICY, "timeout", 0)
    assert outcome.error is not None
    assert "0.3 s" in outcome.error
    assert 0.3 <= outcome.max_action_s < 2.0
    assert outcome.policy_seconds >= outcome.max_action_s


async def test_a_late_action_while_our_own_loop_stood_still_is_ours(raw_policy) -> None:
    async def handler(_path, _body, _writer):
        time.sleep(0.1)  # noqa: ASYNC251 (holds up the evaluator's loop, which it shares)
        await asyncio.sleep(5)

    outcome = await run(await raw_policy(handler), stall_clock=time.monotonic)
    assert (outcome.error_kind, outcome.error_code) == (ErrorKind.INFRASTRUCTURE, "stalled")
    assert outcome.trace_digest is None


@pytest.mark.parametrize(
    "flood",
    [
        (b"HTTP/1.1 100 C\r\n" + b"a:b\r\n" * 1300 + b"\r\n") * 200,
        b"HTTP/1.1 100 C\r\n\r\n" * 60_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 100_000,
    ],
    ids=["heads", "continues", "chunks"],
)
async def test_a_flood_does_not_make_a_policys_lateness_ours(raw_policy, flood: bytes) -> None:
    async def handler(_path, _body, writer):
        writer.write(flood)
        await asyncio.sleep(5)

    # Our own processor time, so that other processes on this machine don't matter.
    outcome = await run(await raw_policy(handler), stall_clock=time.process_time)
    assert outcome.error_kind is ErrorKind.POLICY


async def test_a_policy_that_uses_up_the_episodes_time_is_at_fault(raw_policy) -> None:
    outcome = await run(await raw_policy(always(STILL, pause_s=0.1)), timeout_s=0.5)
    assert (outcome.error_kind, outcome.error_code) == (ErrorKind.POLICY, "episode_timeout")
    assert 2 <= outcome.timesteps <= 5


async def test_the_episodes_deadline_cuts_a_wait_short(raw_policy) -> None:
    started = time.monotonic()
    outcome = await run(await raw_policy(always(STILL, pause_s=5)), timeout_s=0.2, action_timeout_s=3.0)
    assert (outcome.error_kind, outcome.error_code) == (ErrorKind.POLICY, "episode_timeout")
    assert time.monotonic() - started < 2.5


class SlowWorld(LineWorld):
    def step(self, action: Action) -> Step:
        time.sleep(0.1)
        return super().step(action)


async def test_a_simulator_that_uses_up_the_episodes_time_is_our_fault(raw_policy) -> None:
    outcome = await run(await raw_policy(always(STILL)), SlowWorld(), timeout_s=0.5)
    assert (outcome.error_kind, outcome.error_code) == (ErrorKind.INFRASTRUCTURE, "environment_slow")


async def test_a_slow_simulator_does_not_excuse_a_late_policy(raw_policy) -> None:
    outcome = await run(await raw_policy(always(STILL, pause_s=5)), SlowWorld())
    assert (outcome.error_kind, outcome.error_code) == (ErrorKind.POLICY, "timeout")


class FragileWorld(LineWorld):
    def step(self, action: Action) -> Step:
        step = super().step(action)
        return Step(step.observation, float("nan"), success=False, failed="the arm left the world")


class BrokenWorld(LineWorld):
    def step(self, action: Action) -> Step:
        raise EnvironmentFault("The simulator lost its context.", code="gl_lost")


class BadRewardWorld(LineWorld):
    def step(self, action: Action) -> Step:
        return Step(super().step(action).observation, float("inf"), success=False)


@pytest.mark.parametrize(
    ("world", "kind", "code"),
    [
        (FragileWorld, ErrorKind.POLICY, "diverged"),
        (BrokenWorld, ErrorKind.INFRASTRUCTURE, "gl_lost"),
        (BadRewardWorld, ErrorKind.INFRASTRUCTURE, "environment_reward"),
    ],
)
async def test_failures_within_the_simulation_have_their_fault(raw_policy, world, kind, code) -> None:
    outcome = await run(await raw_policy(always(RIGHT)), world())
    assert (outcome.success, outcome.error_kind, outcome.error_code) == (False, kind, code)
    assert outcome.total_reward == 0.0


async def test_a_policy_that_dies_within_the_episode_is_at_fault(raw_policy) -> None:
    asked = 0

    async def handler(_path, _body, writer):
        nonlocal asked
        asked += 1
        writer.write(http_reply(STILL)) if asked < 4 else writer.close()

    outcome = await run(await raw_policy(handler))
    assert (outcome.error_kind, outcome.error_code, outcome.timesteps) == (ErrorKind.POLICY, "disconnected", 3)
    assert outcome.trace_digest is not None


async def test_a_malformed_action_is_named_in_the_outcome(raw_policy) -> None:
    outcome = await run(await raw_policy(always({"action": {"continuous": {"ee_twist": [0] * 7}}})))
    assert (outcome.error_kind, outcome.error_code) == (ErrorKind.POLICY, "malformed_action")
    assert outcome.error is not None
    assert "'ee_twist' has 7 values" in outcome.error


async def test_a_failing_reset_is_the_policys(raw_policy) -> None:
    async def handler(_path, _body, writer):
        writer.write(http_reply({"error": "no"}, status="503 Busy"))

    outcome = await run(await raw_policy(handler, everything=True))
    assert (outcome.error_kind, outcome.error_code, outcome.timesteps) == (ErrorKind.POLICY, "http_error", 0)


@pytest.mark.parametrize(("stall_s", "code"), [(0.15, "episode_timeout"), (0.45, "episode_timeout"), (2.0, "stalled")])
async def test_a_reset_that_never_ends_is_excused_by_a_stall_over_its_deadline_only(raw_policy, stall_s, code) -> None:
    now = [0.0]  # a clock that jumps while the loop does not turn

    async def handler(_path, _body, _writer):
        now[0] += stall_s
        await asyncio.sleep(3600)

    outcome = await run(await raw_policy(handler, everything=True), stall_clock=lambda: now[0], timeout_s=0.6)
    assert outcome.error_code == code


async def test_a_policy_is_told_its_own_seed_and_never_the_episodes(raw_policy) -> None:
    told = {}

    async def handler(path, body, writer):
        told[path] = json.loads(body)
        writer.write(http_reply({"status": "ok", "episode_id": "mine"} if path == "/reset" else RIGHT))

    await run(await raw_policy(handler, everything=True), seed=987654321)
    assert told["/reset"] == {
        "task_config": {
            "env_id": "line/reach-v0",
            "env_name": "line",
            "task_name": "reach-v0",
            "seed": 42,
            "task_id": "t",
        }
    }
    assert told["/act"]["episode_id"] == "mine"
    assert set(told["/act"]["obs"]["proprio"]) == set(LINE_REACH.proprio)
    assert told["/act"]["obs"]["rgb"] == {}

"""The one episode loop: every family, backend and replay runs a policy through it. Decides whose fault a failure is."""

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from kinitro.environments.base import Environment, EnvironmentSpec, Step
from kinitro.environments.stall import StallMonitor
from kinitro.environments.trace import Steps, Trace
from kinitro.errors import EnvironmentFault, InfrastructureError, PolicyError
from kinitro.policy.client import RESET_TIMEOUT_S, PolicyClient
from kinitro.policy.codec import ActionSpace
from kinitro.policy.messages import Action, Observation, TaskConfig
from kinitro.types import ErrorKind

T = TypeVar("T")

STALL_EXCUSE_S = 0.05
"""A late action is ours when our own loop stood still for longer than this within that wait. Other waits are long, and
a stall somewhere in them decides nothing: there it must have been over the deadline itself, so that an answer may have
come in time unseen."""


@dataclass(frozen=True, slots=True)
class EpisodeRequest:
    """One episode to run. `seed` decides the environment; `task` is all that the policy is told."""

    task: TaskConfig
    seed: int
    max_timesteps: int
    action_timeout_s: float
    timeout_s: float
    """For all waits for the policy together, past which it is at fault; and as long again for all the rest (the
    simulator, above all), past which we are. Neither counts into the other: a slow machine must blame no policy, and a
    slow policy must not turn its loss into our fault."""


@dataclass(frozen=True, slots=True)
class EpisodeOutcome:
    """What an episode came to. `policy_seconds` sums every wait for the policy, the means and maxima those for actions.

    `steps` is what happened, None when the episode reached no verdict. `error_code` is the error's short stable word.
    """

    success: bool
    score: float
    total_reward: float
    timesteps: int
    policy_seconds: float
    mean_action_s: float
    max_action_s: float
    error: str | None = None
    error_kind: ErrorKind | None = None
    error_code: str | None = None
    steps: Steps | None = None

    @property
    def trace_digest(self) -> str | None:
        """What two runs of the episode are compared by; None when it reached no verdict."""
        return None if self.steps is None else self.steps.digest()


def action_space(spec: EnvironmentSpec) -> ActionSpace:
    """The channels that this environment's policies may command."""
    return ActionSpace(spec.continuous, spec.discrete)


async def run_episode(
    environment: Environment,
    policy: PolicyClient,
    request: EpisodeRequest,
    *,
    monitor: StallMonitor,
    clock: Callable[[], float] = time.monotonic,
) -> EpisodeOutcome:
    """Runs one episode to its end: the first success, the step limit, or the first failure.

    The simulator runs in the caller's thread and event loop: a process runs one episode at a time, and rendering
    contexts belong to one thread. `monitor` must share `clock` with `policy`.

    Raises:
        Exception: whatever else the simulator raises; failures with a known fault are in the outcome.
    """
    run = _Run(environment, policy, request, monitor, clock)
    try:
        success = await run.play()
        return run.outcome(success=success, steps=run.trace.close(environment.state()))
    except PolicyError as error:
        return run.outcome(error=error, kind=ErrorKind.POLICY, steps=run.trace.close(environment.state()))
    except InfrastructureError as error:
        return run.outcome(error=error, kind=ErrorKind.INFRASTRUCTURE)


def attributed(error: PolicyError, stall_s: float) -> PolicyError | InfrastructureError:
    """The same failure of a policy, or ours when it is a lateness that our own loop's stall of `stall_s` may have
    caused.
    """
    if error.code != "timeout" or stall_s <= STALL_EXCUSE_S:
        return error
    return EnvironmentFault(
        f"{error.message} But this process itself stood still for {stall_s * 1000:.0f} ms of that time.",
        code="stalled",
        advice="Run fewer episodes at once on this machine.",
    )


@dataclass
class _Run:
    """One episode as it unfolds."""

    environment: Environment
    policy: PolicyClient
    request: EpisodeRequest
    monitor: StallMonitor
    clock: Callable[[], float]
    trace: Trace = field(default_factory=Trace)
    total_reward: float = 0.0
    timesteps: int = 0
    policy_seconds: float = 0.0
    action_waits: int = 0
    action_seconds: float = 0.0
    max_action_s: float = 0.0
    started: float = 0.0

    async def play(self) -> bool:
        self.started = self.clock()
        observation = self.environment.reset(self.request.seed)
        await self._wait(
            lambda limit_s: self.policy.reset(self.request.task, limit_s), RESET_TIMEOUT_S, self._stall_at_deadline
        )
        while self.timesteps < self.request.max_timesteps:
            action = await self._next_action(observation)
            step = self._apply(observation, action)
            if step.success:
                return True
            observation = step.observation
        return False

    async def _next_action(self, observation: Observation) -> Action:
        space = action_space(self.environment.spec)
        waited_before_s = self.policy_seconds
        try:
            return await self._wait(
                lambda limit_s: self.policy.act(observation, space, limit_s),
                self.request.action_timeout_s,
                lambda _: self.monitor.longest_stall_s(self.policy.last_wait.started),
            )
        finally:
            wait_s = self.policy_seconds - waited_before_s
            self.action_waits += 1
            self.action_seconds += wait_s
            self.max_action_s = max(self.max_action_s, wait_s)

    def _apply(self, observation: Observation, action: Action) -> Step:
        step = self.environment.step(action)
        self.timesteps += 1
        if step.failed is not None:
            raise PolicyError(f"The policy's actions broke the simulation: {step.failed}.", code="diverged")
        if not math.isfinite(step.reward):
            raise EnvironmentFault(
                f"{self.environment.spec.env_id} gave a reward that is not finite.", code="environment_reward"
            )
        self.trace.add(observation, action, step)
        self.total_reward += step.reward
        return step

    def _stall_at_deadline(self, limit_s: float) -> float:
        return self.monitor.stall_at_s(self.policy.last_wait.started + limit_s)

    async def _wait(
        self, call: Callable[[float], Awaitable[T]], limit_s: float, stall_s: Callable[[float], float]
    ) -> T:
        """Waits for the policy, within the limit of this wait and what is left of its time in this episode. `stall_s`
        says which stall of ours, if any, may have made it late within the limit that held.
        """
        self._raise_if_simulator_is_slow()
        left_s = self.request.timeout_s - self.policy_seconds
        if left_s <= 0:
            raise self._overtime()
        try:
            return await call(min(limit_s, left_s))
        except PolicyError as error:
            fault = attributed(error, stall_s(min(limit_s, left_s)))
            if fault is error and error.code == "timeout" and left_s < limit_s:
                raise self._overtime() from error
            raise fault from error
        finally:
            self.policy_seconds += self.policy.last_wait.seconds

    def _raise_if_simulator_is_slow(self) -> None:
        ours_s = self.clock() - self.started - self.policy_seconds
        if ours_s > self.request.timeout_s:
            raise EnvironmentFault(
                f"{self.environment.spec.env_id} took {ours_s:.1f} s for {self.timesteps} steps, without the policy's "
                f"time; it has {self.request.timeout_s:g} s.",
                code="environment_slow",
                advice="Raise KINITRO_EXECUTOR_EVAL_TIMEOUT or run fewer episodes at once.",
            )

    def _overtime(self) -> PolicyError:
        return PolicyError(
            f"The policy took all the {self.request.timeout_s:g} s that its answers may take in one episode.",
            code="episode_timeout",
        )

    def outcome(
        self,
        *,
        success: bool = False,
        error: PolicyError | InfrastructureError | None = None,
        kind: ErrorKind | None = None,
        steps: Steps | None = None,
    ) -> EpisodeOutcome:
        return EpisodeOutcome(
            success=success,
            score=float(success),
            total_reward=self.total_reward,
            timesteps=self.timesteps,
            policy_seconds=self.policy_seconds,
            mean_action_s=self.action_seconds / self.action_waits if self.action_waits else 0.0,
            max_action_s=self.max_action_s,
            error=str(error) if error else None,
            error_kind=kind,
            error_code=error.code if error else None,
            steps=steps,
        )

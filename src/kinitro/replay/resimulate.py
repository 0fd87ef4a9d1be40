"""Applies recorded actions in a simulator of this process, without the policy: for a second opinion, and for videos."""

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from operator import add

from kinitro.environments import Environment, EnvironmentOptions
from kinitro.environments.base import Randomisation, RenderProfile, Step
from kinitro.environments.server import Catalogue, registry_catalogue
from kinitro.environments.simulation import describe
from kinitro.environments.trace import Steps, Trace
from kinitro.errors import ConfigurationError
from kinitro.replay.compare import Run
from kinitro.replay.recorded import Recorded
from kinitro.schemas import EpisodeConditions

Watch = Callable[[Environment, int, Step | None], None]
"""Called with the environment, the steps so far, and the latest step: once after reset, then after each step."""


def resimulate(
    recorded: Recorded, steps: Steps, watch: Watch | None = None, *, catalogue: Catalogue | None = None
) -> Run:
    """The run that these actions give here. Nothing that `watch` draws may touch the simulation.

    What the policy saw is taken from `steps`: it is not asked, so nothing is drawn for it.

    Raises:
        ConfigurationError: the environment is unknown here, or its packages are not installed.
        EnvironmentFault: the simulator failed.
    """
    options = _options(recorded)
    catalogue = catalogue or registry_catalogue()
    environment = catalogue.build(catalogue.find(recorded.env_id), options)
    try:
        played = _play(environment, recorded.out.episode.seed, steps, watch)
        conditions = recorded.conditions.model_copy(
            update={
                "eval_mode": "process",
                "environment_version": environment.spec.version,
                "simulation": describe(environment, options),
            }
        )
    finally:
        environment.close()
    return _run(recorded, played, conditions)


def recorded_steps(recorded: Recorded) -> Steps:
    """The recorded steps. Raises `ConfigurationError` when none are kept."""
    if recorded.run.steps is None:
        raise ConfigurationError(
            "The record has no steps, so the actions are not known.",
            advice="An export has none, and the API keeps those of the latest cycles alone. Run the policy instead.",
        )
    return recorded.run.steps


def _options(recorded: Recorded) -> EnvironmentOptions:
    """No pictures for a policy, the recorded level of randomisation, and the profile that is part of the version."""
    simulation = recorded.conditions.simulation
    if simulation is None:
        return EnvironmentOptions(images=False)
    try:
        level, profile = Randomisation(simulation.randomisation), RenderProfile(simulation.render_profile)
    except ValueError as error:
        raise ConfigurationError(f"The record of {recorded.name} is of another Kinitro: {error}.") from error
    return EnvironmentOptions(images=False, randomisation=level, render_profile=profile)


def _play(environment: Environment, seed: int, steps: Steps, watch: Watch | None) -> Steps:
    trace = Trace()
    observation = environment.reset(seed)
    if watch is not None:
        watch(environment, 0, None)
    for index in range(len(steps)):
        action = steps.action(index)
        step = environment.step(action)
        if step.failed is not None:
            break
        trace.add(observation, action, step)
        observation = step.observation
        if watch is not None:
            watch(environment, index + 1, step)
    played = trace.close(environment.state())
    return replace(played, seen=steps.seen[: len(played)])


def _run(recorded: Recorded, played: Steps, conditions: EpisodeConditions) -> Run:
    """How the policy failed, if it did, is taken from the record: it was not asked."""
    success = bool(played.successes.any())
    told = recorded.run
    return Run(
        success=success,
        timesteps=len(played),
        total_reward=reduce(add, played.rewards.tolist(), 0.0),
        error=None if success else told.error,
        error_kind=None if success else told.error_kind,
        error_code=None if success else told.error_code,
        trace_digest=played.digest(),
        tree_digest=None,
        image_digest=None,
        conditions=conditions,
        steps=played,
    )

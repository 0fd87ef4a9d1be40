"""The environment contract: what every simulated task gives to the episode loop and to a policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from kinitro.policy.messages import Action, Observation

STAND_IN_SUFFIX: Final = "+standin"
"""Ends the version of an environment whose simulator is a stand-in for tests. No cycle with one pays anybody."""


class Randomisation(StrEnum):
    """How much of the world besides object and goal placement is drawn from the seed."""

    OFF = "off"
    STANDARD = "standard"


class RenderProfile(StrEnum):
    """`fast` is what policies see; `full` is for videos."""

    FAST = "fast"
    FULL = "full"


@dataclass(frozen=True)
class EnvironmentSpec:
    """One line of the catalogue. Cheap: reading it imports no simulator.

    `version` changes whenever the same seed and actions could give another outcome; evidence starts anew with it.
    """

    env_id: str
    family: str
    task_name: str
    version: str
    default: bool
    needs_images: bool
    cameras: tuple[str, ...]
    proprio: Mapping[str, int]
    """Observation channel to its length."""
    continuous: Mapping[str, int]
    """Action channel to its length."""
    discrete: Mapping[str, int]
    """Discrete action channel to how many values it has, from 0."""
    instruction: str
    """One sentence for a person or a language-conditioned policy."""
    entry_point: str
    """`module:callable`, called as `callable(spec, options)`; imported only where the environment runs."""

    @property
    def env_name(self) -> str:
        """The family, as the HTTP API calls it."""
        return self.family


@dataclass(frozen=True)
class EnvironmentOptions:
    """What the operator chooses for every episode of a process. Recorded with the episode."""

    images: bool = True
    depth: bool = False
    """Metric depth beside each image, where the family has it."""
    randomisation: Randomisation = Randomisation.STANDARD
    render_profile: RenderProfile = RenderProfile.FAST


@dataclass(frozen=True)
class Step:
    """One step's outcome. `failed` ends the episode without success (the simulation diverged because of the action)."""

    observation: Observation
    reward: float
    success: bool
    failed: str | None = None


@dataclass(frozen=True)
class EpisodeFacts:
    """What the environment drew from the seed, for the episode's record. Never shown to a policy."""

    values: Mapping[str, float | str] = field(default_factory=dict)


class Environment(Protocol):
    """One simulated task, run one episode at a time in one process.

    `reset(seed)` alone decides the episode: the same seed gives the same episode in any process and in any order of
    episodes. `step` takes an action that `policy.codec` has already checked against the spec (lengths, finite
    numbers) and raises `EnvironmentFault` only for the simulator's own failures. Observations hold nothing that a
    robot could not sense: no object pose, goal or success.
    """

    spec: EnvironmentSpec

    def reset(self, seed: int) -> Observation:
        """Starts the episode of this seed (0 to 2**31 - 1)."""
        ...

    def step(self, action: Action) -> Step:
        """Advances one control step. A missing channel means "no command"."""
        ...

    def state(self) -> bytes:
        """The simulator's full state, canonical bytes; equal states give equal bytes."""
        ...

    def facts(self) -> EpisodeFacts:
        """What the seed drew for the present episode."""
        ...

    def stack(self) -> Mapping[str, str]:
        """Names and versions of what simulates and draws, for the episode's record."""
        ...

    def close(self) -> None:
        """Frees the simulator and its rendering context. Safe to call twice."""
        ...

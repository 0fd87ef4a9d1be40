"""A short local run of one environment, for a person: rates, timings and an animated picture."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from kinitro.environments.base import Environment, EnvironmentOptions, EnvironmentSpec
from kinitro.environments.registry import build
from kinitro.errors import ConfigurationError
from kinitro.policy.messages import Action, Image

STEPS_A_FRAME: Final = 8
FRAME_MS: Final = 100
"""MetaWorld's control step is 12.5 ms: eight steps a frame show it at its own speed."""
MAX_FRAMES: Final = 70
_PAUSE_MS: Final = 1500
_COLOURS: Final = 192


class Actor(StrEnum):
    """Who acts in a preview: random actions, or the task's scripted expert, who sees the hidden state."""

    RANDOM = "random"
    EXPERT = "expert"


@runtime_checkable
class Pictured(Protocol):
    """An environment that can draw itself for people."""

    def picture(self, camera: str) -> Image:
        """One camera in high quality."""
        ...


@runtime_checkable
class Solved(Protocol):
    """An environment that knows an expert."""

    def expert_action(self) -> Action:
        """What the expert would do now."""
        ...


@dataclass(frozen=True)
class PreviewEpisode:
    """One episode of a preview. `failed` says why the simulation ended it, if it did."""

    seed: int
    success: bool
    steps: int
    total_reward: float
    failed: str | None = None


@dataclass(frozen=True)
class Preview:
    """What a preview found. Times are means, without the time for the animated picture; `picture` is its file."""

    env_id: str
    version: str
    actor: Actor
    episodes: tuple[PreviewEpisode, ...]
    build_s: float
    reset_s: float
    step_s: float
    picture: Path | None

    @property
    def success_rate(self) -> float:
        """Share of the episodes that succeeded."""
        return sum(episode.success for episode in self.episodes) / len(self.episodes)


def preview(
    spec: EnvironmentSpec,
    options: EnvironmentOptions,
    *,
    actor: Actor = Actor.EXPERT,
    episodes: int = 3,
    max_steps: int = 500,
    picture: Path | None = None,
) -> Preview:
    """Runs episodes of seeds 0, 1, ... and writes the first of them to `picture` (a GIF) when one is given.

    Raises `ConfigurationError` when the environment has no expert or draws no pictures, or packages are missing;
    `EnvironmentFault` when the simulator or its OpenGL library does not work.
    """
    clock, started = _Clock(), time.perf_counter()
    environment = build(spec, options)
    clock.build_s = time.perf_counter() - started
    try:
        film = _Film(environment) if picture else None
        played = tuple(
            _play(environment, _act(environment, actor, seed), seed, max_steps, film if seed == 0 else None, clock)
            for seed in range(episodes)
        )
        if film and picture:
            film.write(picture)
        version = environment.spec.version
    finally:
        environment.close()
    steps = sum(episode.steps for episode in played)
    return Preview(
        spec.env_id, version, actor, played, clock.build_s, clock.reset_s / episodes, clock.step_s / steps, picture
    )


@dataclass
class _Clock:
    build_s: float = 0.0
    reset_s: float = 0.0
    step_s: float = 0.0


class _Film:
    """Frames of all cameras side by side."""

    def __init__(self, environment: Environment) -> None:
        if not isinstance(environment, Pictured):
            raise ConfigurationError(f"{environment.spec.env_id} has no picture to show.", advice="Leave it out.")
        self._environment: Pictured = environment
        self._cameras = environment.spec.cameras
        self._frames: list[Any] = []  # Pillow's images; it is an optional dependency

    def take(self) -> None:
        """Adds the present state, unless the film is full."""
        from PIL import Image as Pillow  # noqa: PLC0415 - only people who want pictures need it

        if len(self._frames) < MAX_FRAMES:
            views = np.hstack([self._environment.picture(camera) for camera in self._cameras])
            # Median cut, the default, would lose the goal's small bright marker among the browns.
            self._frames.append(Pillow.fromarray(views).quantize(_COLOURS, method=Pillow.Quantize.FASTOCTREE))

    def write(self, path: Path) -> None:
        """Writes an endless GIF that rests on its last frame."""
        pauses = [FRAME_MS] * (len(self._frames) - 1) + [_PAUSE_MS]
        self._frames[0].save(path, save_all=True, append_images=self._frames[1:], duration=pauses, loop=0)


def _act(environment: Environment, actor: Actor, seed: int) -> Callable[[], Action]:
    if actor is Actor.RANDOM:
        return _random_actions(environment.spec, seed)
    if not isinstance(environment, Solved):
        raise ConfigurationError(f"{environment.spec.env_id} has no scripted expert.", advice="Use random actions.")
    return environment.expert_action


def _random_actions(spec: EnvironmentSpec, seed: int) -> Callable[[], Action]:
    random = np.random.default_rng(seed)
    return lambda: Action(
        {name: random.uniform(-1.0, 1.0, length) for name, length in spec.continuous.items()},
        {name: int(random.integers(count)) for name, count in spec.discrete.items()},
    )


def _play(
    environment: Environment, act: Callable[[], Action], seed: int, max_steps: int, film: _Film | None, clock: _Clock
) -> PreviewEpisode:
    started = time.perf_counter()
    environment.reset(seed)
    clock.reset_s += time.perf_counter() - started
    reward, success, failed, steps = 0.0, False, None, 0
    frame_steps = 1 if environment.spec.discrete else STEPS_A_FRAME  # discrete steps are far apart
    while steps < max_steps and not success and failed is None:
        if film and steps % frame_steps == 0:
            film.take()
        started = time.perf_counter()
        step = environment.step(act())
        clock.step_s += time.perf_counter() - started
        steps, reward, success, failed = steps + 1, reward + step.reward, step.success, step.failed
    if film:
        film.take()
    return PreviewEpisode(seed, success, steps, reward, failed)

"""Plays made-up episodes against a policy server: does it keep to the protocol, answer in time, and repeat itself?"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import numpy as np

from kinitro.environments.base import EnvironmentSpec
from kinitro.environments.episode import action_space
from kinitro.errors import PolicyError
from kinitro.miner.findings import Finding, Verdict
from kinitro.policy.client import PolicyClient
from kinitro.policy.messages import Action, Observation, PolicyHealth, TaskConfig

STEPS = 20
_IMAGE_PIXELS = 84
_AT_ONCE = 8
_ALMOST = 1e-3


@dataclass(frozen=True)
class Run:
    """One made-up episode: what the policy did, and how long each answer took, seconds."""

    actions: tuple[Action, ...]
    seconds: tuple[float, ...]


class Rehearsal:
    """Made-up episodes of one environment: its channels and cameras, drawn at random."""

    def __init__(self, url: str, spec: EnvironmentSpec, health: PolicyHealth, action_timeout_s: float) -> None:
        self._url = url
        self._spec = spec
        self._health = health
        self._action_timeout_s = action_timeout_s

    async def findings(self) -> list[Finding]:
        """All of it. Stops at the first answer that breaks the protocol."""
        try:
            await self._play(seed=1, msgpack=False, steps=3)
            runs = [await self._play(seed=7), await self._play(seed=7)]
            crowd = await self._crowd()
        except PolicyError as error:
            return [Finding(Verdict.FIX, "protocol", str(error))]
        formats = "JSON and msgpack" if "msgpack" in self._health.formats else "JSON"
        return [
            Finding(Verdict.GOOD, "protocol", f"{formats}; {self._needs}"),
            _latency(runs + crowd, self._action_timeout_s, len(crowd)),
            _determinism(runs),
            *_separation(runs[0], crowd),
        ]

    @property
    def _needs(self) -> str:
        images = "camera images" if self._health.needs_images else "no images"
        return f"{images}; {self._health.max_concurrent_episodes} at once"

    async def _crowd(self) -> list[Run]:
        """As many episodes at once as the policy says it takes; the first has the seed that ran alone."""
        count = min(self._health.max_concurrent_episodes, _AT_ONCE)
        if count < 2:
            return []
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._play(seed=7 + number)) for number in range(count)]
        return [task.result() for task in tasks]

    async def _play(self, seed: int, *, msgpack: bool = True, steps: int = STEPS) -> Run:
        task = TaskConfig(self._spec.env_id, self._spec.env_name, self._spec.task_name, seed, str(uuid4()))
        actions, seconds = [], []
        async with PolicyClient(self._url) as client:
            if msgpack:
                await client.health()
            await client.reset(task)
            # One made-up world for all: only the seed tells episodes apart.
            for observation in observations(self._spec, steps, images=self._health.needs_images):
                # Lateness is measured, and judged with all the others.
                actions.append(await client.act(observation, action_space(self._spec), 20 * self._action_timeout_s))
                seconds.append(client.last_wait.seconds)
        return Run(tuple(actions), tuple(seconds))


def observations(spec: EnvironmentSpec, count: int, *, images: bool) -> list[Observation]:
    """Made-up observations of an environment's shape, always the same ones."""
    draw = np.random.default_rng(0)
    return [_observation(spec, draw, images=images) for _ in range(count)]


def _observation(spec: EnvironmentSpec, draw: np.random.Generator, *, images: bool) -> Observation:
    proprio = {name: draw.uniform(0.0, 0.5, length) for name, length in spec.proprio.items()}
    extra = {"instruction": spec.instruction}
    if not images:
        return Observation(proprio, extra=extra)
    size = (_IMAGE_PIXELS, _IMAGE_PIXELS)
    return Observation(
        proprio,
        rgb={camera: draw.integers(0, 256, (*size, 3), dtype=np.uint8) for camera in spec.cameras},
        depth={camera: draw.uniform(0.5, 2.0, size).astype(np.float32) for camera in spec.cameras},
        cam_intrinsics={camera: np.eye(3) for camera in spec.cameras},
        cam_extrinsics={camera: np.eye(4) for camera in spec.cameras},
        extra=extra,
    )


def _latency(runs: Sequence[Run], limit_s: float, at_once: int) -> Finding:
    waits = np.array([wait for run in runs for wait in run.seconds])
    crowd = f" with up to {at_once} episodes at once" if at_once else ""
    text = (
        f"an action takes {np.median(waits) * 1000:.1f} ms, at worst {waits.max() * 1000:.1f} ms{crowd}; "
        f"{limit_s * 1000:.0f} ms are allowed"
    )
    if waits.max() > limit_s:
        return Finding(Verdict.FIX, "latency", f"{text}. A late action ends the episode as a failure")
    if waits.max() > limit_s / 2:
        return Finding(Verdict.NOTE, "latency", f"{text}. The evaluator's machine may be slower than yours")
    return Finding(Verdict.GOOD, "latency", text)


def _determinism(runs: Sequence[Run]) -> Finding:
    apart = _distance(runs[0], runs[1])
    if apart == 0:
        return Finding(Verdict.GOOD, "determinism", "the same seed gives the same actions")
    if apart <= _ALMOST:
        return Finding(Verdict.NOTE, "determinism", f"the same seed gives almost the same actions (within {apart:.1g})")
    return Finding(
        Verdict.FIX,
        "determinism",
        "the same seed gives different actions: draw all random numbers from the seed that reset gets",
    )


def _separation(alone: Run, crowd: Sequence[Run]) -> list[Finding]:
    """Whether an episode goes the same when others run beside it."""
    if not crowd:
        return []
    if _distance(alone, crowd[0]) > _ALMOST:
        return [
            Finding(
                Verdict.FIX,
                "episodes apart",
                "an episode goes differently when others run at the same time: keep what belongs to an episode in the "
                "state that reset returns, or set max_concurrent_episodes = 1",
            )
        ]
    return [Finding(Verdict.GOOD, "episodes apart", f"{len(crowd)} at once do not disturb each other")]


def _distance(one: Run, other: Run) -> float:
    """The largest difference between two runs' actions; infinite when they command different channels."""
    worst = 0.0
    for mine, theirs in zip(one.actions, other.actions, strict=True):
        if mine.continuous.keys() != theirs.continuous.keys() or mine.discrete != theirs.discrete:
            return float("inf")
        for name, values in mine.continuous.items():
            worst = max(worst, float(np.abs(values - theirs.continuous[name]).max(initial=0.0)))
    return worst

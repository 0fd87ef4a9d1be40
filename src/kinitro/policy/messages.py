"""What travels between an episode and a policy, as values. The bytes are `codec`'s business."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(height, width, 3), row 0 at the top."""
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Observation:
    """What a policy may sense. Units and conventions: docs/protocol.md.

    Camera maps share their keys; all are empty in an episode without images. `depth` is (height, width) float32
    metres, `intrinsics` 3x3 pixels, `extrinsics` 4x4 camera-to-world.
    """

    proprio: Mapping[str, Vector]
    rgb: Mapping[str, Image] = field(default_factory=dict)
    depth: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    cam_intrinsics: Mapping[str, Vector] = field(default_factory=dict)
    cam_extrinsics: Mapping[str, Vector] = field(default_factory=dict)
    extra: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """What a policy commands. A channel that is absent means "no command"."""

    continuous: Mapping[str, Vector] = field(default_factory=dict)
    discrete: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskConfig:
    """What a policy is told at reset. `seed` is the policy seed and `task_id` random: neither reveals the episode."""

    env_id: str
    env_name: str
    task_name: str
    seed: int
    task_id: str


@dataclass(frozen=True)
class PolicyHealth:
    """A policy server's answer to `GET /health`, with the contract's defaults for what it left out."""

    model_loaded: bool
    uptime_s: float
    max_concurrent_episodes: int = 1
    formats: tuple[str, ...] = ("json",)
    needs_images: bool = True
    needs_depth: bool = False

"""A policy that moves at random: what luck alone is worth."""

from typing import Any

import numpy as np


class Policy:
    """Draws every action evenly from the whole action space."""

    needs_images = False
    max_concurrent_episodes = 8

    def reset(self, task: dict[str, Any], seed: int) -> np.random.Generator:
        """One random stream an episode, so that a replay makes the same moves."""
        return np.random.default_rng(seed)

    def act(self, obs: dict[str, Any], state: np.random.Generator) -> dict[str, Any]:
        """A twist in [-1, 1] and a gripper command in [0, 1]."""
        return {
            "continuous": {
                "ee_twist": state.uniform(-1.0, 1.0, 6).tolist(),
                "gripper": state.uniform(0.0, 1.0, 1).tolist(),
            }
        }

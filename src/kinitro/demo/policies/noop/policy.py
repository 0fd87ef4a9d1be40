"""A policy that never moves: the score that every other policy has to beat."""

from typing import Any


class Policy:
    """Commands no motion, whatever it is shown."""

    needs_images = False
    max_concurrent_episodes = 8

    def reset(self, task: dict[str, Any], seed: int) -> None:
        """Nothing to remember."""

    def act(self, obs: dict[str, Any], state: None) -> dict[str, Any]:
        """A twist of zero and an open gripper."""
        return {"continuous": {"ee_twist": [0.0] * 6, "gripper": [0.0]}}

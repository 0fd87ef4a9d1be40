"""A policy good at several tasks: it looks where the place of things matters, and walks blindly where it does not.

Without pictures it walks everywhere, and is as good as that gets.
"""

from dataclasses import dataclass
from typing import Any

from sight import Memory, Sight
from walks import Walk, Walks


@dataclass
class Episode:
    """The task, and what the way of acting chosen at the first step remembers."""

    task: str
    memory: Memory | Walk | None = None


class Policy:
    """Sees in reach, push and pick-place; walks in the tasks that it knows a walk for; stands still in others."""

    needs_images = True
    max_concurrent_episodes = 8

    def __init__(self) -> None:
        self._sight, self._walks = Sight(), Walks()

    def reset(self, task: dict[str, Any], seed: int) -> Episode:
        """Waits for the first observation to choose how to act."""
        return Episode(task["task_name"])

    def act(self, obs: dict[str, Any], state: Episode) -> dict[str, Any]:
        """Acts by sight or by walk."""
        if state.memory is None:
            sees = state.task in Sight.tasks and len(obs["rgb"]) > 0
            state.memory = self._sight.reset(state.task) if sees else self._walks.reset(state.task)
        if isinstance(state.memory, Memory):
            return self._sight.act(obs, state.memory)
        return self._walks.act(obs, state.memory)

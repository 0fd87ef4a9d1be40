"""Run with `pytest`, in this folder. `kinitro miner check .` tests much more."""

# mypy: disable-error-code=import-not-found

from typing import Any

import numpy as np
from policy import Policy
from server import action_document

TASK = {"env_id": "metaworld/reach-v3", "env_name": "metaworld", "task_name": "reach-v3"}


def _actions(seed: int, steps: int = 20) -> list[dict[str, Any]]:
    """What a fresh policy does when its hand stays where it is."""
    policy = Policy()
    state = policy.reset(TASK, seed)
    obs = {"proprio": {"ee_pos": np.array([0.0, 0.6, 0.2]), "gripper": np.zeros(1)}, "rgb": {}, "depth": {}}
    return [action_document(policy.act(obs, state)) for _ in range(steps)]


def test_every_action_is_one_the_evaluator_takes() -> None:
    """Six numbers from -1 to 1 and one from 0 to 1."""
    for action in _actions(seed=1):
        assert len(action["continuous"]["ee_twist"]) == 6
        assert np.abs(action["continuous"]["ee_twist"]).max() <= 1
        assert 0 <= action["continuous"]["gripper"][0] <= 1


def test_the_same_seed_gives_the_same_actions() -> None:
    """A replay must come out the same."""
    assert _actions(seed=7) == _actions(seed=7)

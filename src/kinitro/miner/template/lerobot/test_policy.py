"""Run with `pytest`, in this folder. `kinitro miner check .` tests much more."""

# mypy: disable-error-code=import-not-found

import numpy as np
from policy import ACTION, Policy, action_of, state_of
from server import action_document

OBSERVATION = {
    "proprio": {"ee_pos": np.zeros(3), "ee_quat": np.array([0.0, 0.0, 0.0, 1.0]), "gripper": np.ones(1)},
    "rgb": {},
}


def test_the_state_holds_the_senses_in_order() -> None:
    """Position, orientation, gripper."""
    assert state_of(OBSERVATION).tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


def test_the_numbers_of_an_action_go_to_their_channels() -> None:
    """All of them, in order."""
    numbers = np.arange(sum(count for _, count in ACTION), dtype=np.float32)
    action = action_document(action_of(numbers))
    assert [value for values in action["continuous"].values() for value in values] == numbers.tolist()


def test_the_policy_loads() -> None:
    """Needs `config.json` and `model.safetensors` beside policy.py."""
    assert Policy().max_concurrent_episodes == 1

"""Serves a LeRobot policy: put the files of its `pretrained_model` folder beside this one.

That is `config.json`, `model.safetensors` and, from newer versions, the processors' files. Below, say how this
evaluator's channels and cameras correspond to the features that your policy was trained with.
"""

# mypy: disable-error-code=import-not-found

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

FOLDER = Path(__file__).resolve().parent

STATE = ("ee_pos", "ee_quat", "gripper")
"""The senses that make up `observation.state`, in this order."""
ACTION = (("ee_twist", 6), ("gripper", 1))
"""What the numbers of `action` command, in this order. A gripper value is from 0 open to 1 closed."""
CAMERAS: dict[str, str] = {}
"""From an image feature's last word to a camera, where they differ: {"top": "corner"}."""


class Policy:
    """One episode at a time: a LeRobot policy keeps the actions still to come inside itself."""

    max_concurrent_episodes = 1

    def __init__(self) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        config = PreTrainedConfig.from_pretrained(FOLDER)
        config.device = device
        self._config = config
        self._policy = get_policy_class(config.type).from_pretrained(FOLDER, config=config).to(device).eval()
        self._before, self._after = make_pre_post_processors(
            config,
            pretrained_path=str(FOLDER),
            preprocessor_overrides={"device_processor": {"device": device}},
        )
        self.needs_images = bool(config.image_features)
        length = sum(count for _, count in ACTION)
        if config.output_features["action"].shape[0] != length:
            raise ValueError(
                f"The policy's actions have {config.output_features['action'].shape[0]} numbers and ACTION in "
                f"policy.py names {length}: change ACTION to fit."
            )

    def reset(self, task: dict[str, Any], seed: int) -> str:
        """Starts an episode; its state is the task's name, for policies that take an instruction."""
        torch.manual_seed(seed)
        self._policy.reset()
        return str(task.get("task_name", "")).rpartition("-v")[0].replace("-", " ")

    def act(self, obs: dict[str, Any], state: str) -> dict[str, Any]:
        """One action of those the policy has planned."""
        with torch.inference_mode():
            planned = self._policy.select_action(self._before(self._batch(obs, state)))
        return action_of(self._after(planned).squeeze(0).cpu().numpy())

    def _batch(self, obs: dict[str, Any], instruction: str) -> dict[str, Any]:
        batch: dict[str, Any] = {"task": [instruction]}
        for feature in self._config.image_features:
            batch[feature] = torch.from_numpy(image_of(obs, feature)).unsqueeze(0)
        if "observation.state" in self._config.input_features:
            batch["observation.state"] = torch.from_numpy(state_of(obs)).unsqueeze(0)
        return batch


def state_of(obs: dict[str, Any]) -> Any:
    """The senses of STATE, one after another: float32."""
    return np.concatenate([obs["proprio"][channel] for channel in STATE]).astype(np.float32)


def image_of(obs: dict[str, Any], feature: str) -> Any:
    """A camera's picture as LeRobot wants it: float32 from 0 to 1, colour first."""
    name = feature.rpartition(".")[2]
    camera = CAMERAS.get(name, name)
    if camera not in obs["rgb"]:
        raise KeyError(f"no camera {camera!r} for {feature}; there are {sorted(obs['rgb'])}: set CAMERAS in policy.py")
    return np.ascontiguousarray(obs["rgb"][camera].transpose(2, 0, 1), dtype=np.float32) / 255.0


def action_of(numbers: Any) -> dict[str, Any]:
    """The policy's numbers under the channels of ACTION."""
    channels, at = {}, 0
    for channel, count in ACTION:
        channels[channel] = numbers[at : at + count].tolist()
        at += count
    return {"continuous": channels}

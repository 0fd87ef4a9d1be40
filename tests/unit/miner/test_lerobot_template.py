"""The LeRobot template. torch and lerobot are not part of this project: what needs them is skipped, and said so."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kinitro.miner.folder import create_folder
from kinitro.types import FolderTemplate


class Anything(ModuleType):
    """Stands in for a module that the pure parts of the template import and never use."""

    def __getattr__(self, name: str) -> object:
        return object()


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The template's policy.py; its imports of torch and lerobot are satisfied by nothing at all."""
    create_folder(tmp_path / "policy", FolderTemplate.LEROBOT)
    for name in ("torch", "lerobot", "lerobot.configs", "lerobot.configs.policies", "lerobot.policies"):
        monkeypatch.setitem(sys.modules, name, Anything(name))
    monkeypatch.setitem(sys.modules, "lerobot.policies.factory", Anything("lerobot.policies.factory"))
    spec = importlib.util.spec_from_file_location("lerobot_template", tmp_path / "policy" / "policy.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OBS = {
    "proprio": {"ee_pos": np.array([1.0, 2, 3]), "ee_quat": np.array([0.0, 0, 0, 1]), "gripper": np.array([0.5])},
    "rgb": {"corner": np.full((8, 6, 3), 255, np.uint8)},
}


def test_the_state_is_the_senses_in_order(template: ModuleType) -> None:
    state = template.state_of(OBS)
    assert state.dtype == np.float32
    assert state.tolist() == [1, 2, 3, 0, 0, 0, 1, 0.5]


def test_an_image_is_colour_first_from_0_to_1(template: ModuleType) -> None:
    image = template.image_of(OBS, "observation.images.corner")
    assert (image.shape, image.dtype, image.max()) == ((3, 8, 6), np.float32, 1.0)


def test_a_camera_that_is_missing_is_named_with_those_there_are(template: ModuleType) -> None:
    with pytest.raises(KeyError, match=r"no camera 'top' .* \['corner'\]: set CAMERAS"):
        template.image_of(OBS, "observation.images.top")
    template.CAMERAS["top"] = "corner"
    assert template.image_of(OBS, "observation.images.top").shape == (3, 8, 6)


def test_the_numbers_of_an_action_go_to_their_channels(template: ModuleType) -> None:
    action = template.action_of(np.arange(7, dtype=np.float32))
    assert action == {"continuous": {"ee_twist": [0, 1, 2, 3, 4, 5], "gripper": [6]}}


def test_a_real_policy_is_served(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: the LeRobot template is not run here")
    pytest.importorskip("lerobot", reason="lerobot is not installed: the LeRobot template is not run here")
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    create_folder(tmp_path / "policy", FolderTemplate.LEROBOT)
    config = ACTConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (8,)),
            "observation.images.corner": PolicyFeature(FeatureType.VISUAL, (3, 84, 84)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
        device="cpu",
        pretrained_backbone_weights=None,
    )
    ACTPolicy(config).save_pretrained(tmp_path / "policy")
    for processor in make_pre_post_processors(config):
        processor.save_pretrained(tmp_path / "policy")
    spec = importlib.util.spec_from_file_location("served", tmp_path / "policy" / "policy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    policy = module.Policy()
    obs = OBS | {"rgb": {"corner": np.zeros((84, 84, 3), np.uint8)}}
    actions = []
    for _ in range(2):
        state = policy.reset({"task_name": "reach-v3"}, 1)
        actions.append(policy.act(obs, state)["continuous"])
    assert actions[0] == actions[1]
    assert {name: len(values) for name, values in actions[0].items()} == {"ee_twist": 6, "gripper": 1}
    assert torch.is_inference_mode_enabled() is False

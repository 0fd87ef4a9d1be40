"""What `kinitro env test` shows."""

from pathlib import Path

import pytest
from PIL import Image

from kinitro.environments import registry
from kinitro.environments.base import EnvironmentOptions
from kinitro.environments.preview import Actor, preview

OPTIONS = EnvironmentOptions(images=False)


def test_a_preview_with_the_expert_succeeds_and_writes_an_animated_picture(tmp_path: Path) -> None:
    picture = tmp_path / "reach.gif"
    seen = preview(registry.find("metaworld/reach-v3"), OPTIONS, episodes=2, picture=picture)
    assert seen.success_rate == 1.0
    assert 0 < seen.step_s < seen.reset_s
    with Image.open(picture) as film:
        assert film.size == (672, 336)
        assert film.n_frames >= 3


def test_a_preview_with_random_actions_reports_each_episode() -> None:
    spec = registry.find("metaworld/peg-insert-side-v3")
    seen = preview(spec, OPTIONS, actor=Actor.RANDOM, episodes=2, max_steps=20)
    assert [(episode.seed, episode.success, episode.steps) for episode in seen.episodes] == [
        (0, False, 20),
        (1, False, 20),
    ]
    assert seen.picture is None
    assert seen.success_rate == pytest.approx(0.0)

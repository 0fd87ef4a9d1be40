"""Environments that are closed when their test ends."""

from collections.abc import Callable, Iterator

import pytest

from kinitro.environments import registry
from kinitro.environments.base import EnvironmentOptions, Randomisation, RenderProfile
from kinitro.environments.metaworld.adapter import MetaWorldEnvironment

Build = Callable[..., MetaWorldEnvironment]


@pytest.fixture
def build() -> Iterator[Build]:
    made: list[MetaWorldEnvironment] = []

    def make(
        task: str,
        *,
        images: bool = False,
        level: Randomisation = Randomisation.STANDARD,
        profile: RenderProfile = RenderProfile.FAST,
    ) -> MetaWorldEnvironment:
        options = EnvironmentOptions(images=images, randomisation=level, render_profile=profile)
        environment = registry.build(registry.find(f"metaworld/{task}"), options)
        assert isinstance(environment, MetaWorldEnvironment)
        made.append(environment)
        return environment

    yield make
    for environment in made:
        environment.close()

"""An environment server whose ProcTHOR runs on the stand-in: `python -m kinitro.testing.procthor.server --port P`.

Everything else it serves as usual. Only tests start it (`build_executor(environment_server=...)`).
"""

from kinitro.environments import registry
from kinitro.environments.base import Environment, EnvironmentOptions, EnvironmentSpec
from kinitro.environments.procthor.spec import FAMILY
from kinitro.environments.server import Catalogue, serve
from kinitro.testing.procthor.launch import build_on_stand_in, stand_in_specs


def specs() -> tuple[EnvironmentSpec, ...]:
    """The catalogue, with ProcTHOR marked as a stand-in."""
    return tuple(spec for spec in registry.catalogue() if spec.family != FAMILY) + stand_in_specs()


def find(env_id: str) -> EnvironmentSpec:
    """As the registry's."""
    return next(spec for spec in specs() if spec.env_id == registry.find(env_id).env_id)


def build(spec: EnvironmentSpec, options: EnvironmentOptions) -> Environment:
    """As the registry's, but for ProcTHOR."""
    return (build_on_stand_in if spec.family == FAMILY else registry.build)(spec, options)


if __name__ == "__main__":
    serve(Catalogue(specs=specs, find=find, build=build))

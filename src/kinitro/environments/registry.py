"""Which environments exist, and how one is made. Looking one up imports no simulator."""

import difflib
import importlib
from collections.abc import Callable, Sequence
from typing import cast

from kinitro.environments import metaworld
from kinitro.environments.base import Environment, EnvironmentOptions, EnvironmentSpec
from kinitro.errors import ConfigurationError


def catalogue() -> tuple[EnvironmentSpec, ...]:
    """Every environment of every family, in order of their ids."""
    return tuple(sorted(metaworld.specs(), key=lambda spec: spec.env_id))


def find(env_id: str) -> EnvironmentSpec:
    """The environment of this id. Raises `ConfigurationError` naming the nearest ids there are."""
    known = {spec.env_id: spec for spec in catalogue()}
    if env_id in known:
        return known[env_id]
    raise ConfigurationError(f"Unknown environment {env_id!r}.", advice=_advice(env_id, list(known)))


def select(families: Sequence[str] = (), environments: Sequence[str] = ()) -> tuple[EnvironmentSpec, ...]:
    """The union of whole families and single ids, each once, in order of ids; the default set when both are empty.

    Raises `ConfigurationError` for a family or id that does not exist.
    """
    if not families and not environments:
        return tuple(spec for spec in catalogue() if spec.default)
    _check_families(families)
    named = {find(env_id).env_id for env_id in environments}
    return tuple(spec for spec in catalogue() if spec.family in families or spec.env_id in named)


def build(spec: EnvironmentSpec, options: EnvironmentOptions) -> Environment:
    """Imports the family's code and makes the environment.

    Raises `ConfigurationError` when its packages are not installed, `EnvironmentFault` when its simulator or, with
    `options.images`, its OpenGL library does not work.
    """
    module, _, name = spec.entry_point.partition(":")
    # The entry point's type is only known by convention: EnvironmentSpec.entry_point states it.
    make = cast(
        "Callable[[EnvironmentSpec, EnvironmentOptions], Environment]", getattr(importlib.import_module(module), name)
    )
    return make(spec, options)


def _check_families(families: Sequence[str]) -> None:
    known = sorted({spec.family for spec in catalogue()})
    for family in families:
        if family not in known:
            raise ConfigurationError(
                f"Unknown environment family {family!r}.",
                advice=f"Families: {', '.join(known)}. See `kinitro env list`.",
            )


def _advice(wrong: str, known: Sequence[str]) -> str:
    by_task = {env_id.partition("/")[2]: env_id for env_id in known}
    near = difflib.get_close_matches(wrong, known, n=3, cutoff=0.6) or [
        by_task[task] for task in difflib.get_close_matches(wrong.rpartition("/")[2], list(by_task), n=3, cutoff=0.5)
    ]
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{meant}See `kinitro env list`."

"""Which environments exist, and how one is made. Looking one up imports no simulator."""

import difflib
import importlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import cast

from kinitro.environments import metaworld, procthor
from kinitro.environments.base import Environment, EnvironmentOptions, EnvironmentSpec
from kinitro.errors import ConfigurationError


def catalogue() -> tuple[EnvironmentSpec, ...]:
    """Every environment of every family, in order of their ids."""
    return tuple(sorted((*metaworld.specs(), *procthor.specs()), key=lambda spec: spec.env_id))


def find(env_id: str) -> EnvironmentSpec:
    """The environment of this id. Raises `ConfigurationError` naming the nearest ids there are."""
    known = {spec.env_id: spec for spec in catalogue()}
    if env_id in known:
        return known[env_id]
    raise ConfigurationError(f"Unknown environment {env_id!r}.", advice=_advice(env_id, list(known)))


def select(
    families: Sequence[str] | None = None, environments: Sequence[str] | None = None
) -> tuple[EnvironmentSpec, ...]:
    """What a cycle evaluates, in order of ids: the union of families and single ids, each once.

    A family stands for its default environments, or for all of them when it has no defaults; nothing chosen stands
    for the default set. Raises `ConfigurationError` for a family or id that does not exist.
    """
    if not families and not environments:
        return tuple(spec for spec in catalogue() if spec.default)
    named = {find(env_id).env_id for env_id in environments or ()}
    for family in families or ():
        members = served_by([family])
        named |= {spec.env_id for spec in members if spec.default} or {spec.env_id for spec in members}
    return tuple(spec for spec in catalogue() if spec.env_id in named)


def served_by(families: Sequence[str] | None = None) -> tuple[EnvironmentSpec, ...]:
    """Every environment an executor of these families can run; without a choice, of those in the default set."""
    chosen = families or {spec.family for spec in catalogue() if spec.default}
    _check_families(chosen, {spec.family for spec in catalogue()})
    return tuple(spec for spec in catalogue() if spec.family in chosen)


def images_of(families: Iterable[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """The image of each of these families: the chosen one, else `kinitro/FAMILY:v1`.

    Others may have a chosen one too. Raises `ConfigurationError` when a chosen one is of a family that does not exist.
    """
    wanted = set(families)
    _check_families(chosen, wanted | {spec.family for spec in catalogue()}, " in the images (--eval-images)")
    return {family: chosen.get(family, f"kinitro/{family}:v1") for family in sorted(wanted)}


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


def _check_families(chosen: Iterable[str], known: Collection[str], where: str = "") -> None:
    for family in chosen:
        if family not in known:
            raise ConfigurationError(
                f"Unknown environment family {family!r}{where}.",
                advice=f"Families: {', '.join(sorted(known))}. See `kinitro env list`.",
            )


def _advice(wrong: str, known: Sequence[str]) -> str:
    by_task = {env_id.partition("/")[2]: env_id for env_id in known}
    near = difflib.get_close_matches(wrong, known, n=3, cutoff=0.6) or [
        by_task[task] for task in difflib.get_close_matches(wrong.rpartition("/")[2], list(by_task), n=3, cutoff=0.5)
    ]
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{meant}See `kinitro env list`."

"""Object metadata recorded from real AI2-THOR scenes, which PyPI's `procthor` ships. Its code is never imported."""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@cache
def scenes() -> tuple[tuple[dict[str, Any], ...], ...]:
    """The objects of each recorded scene."""
    found = find_spec("procthor")
    assert found is not None, "the development group installs procthor==0.0.1.dev2"
    file = Path(next(iter(found.submodule_search_locations or ()))) / "databases" / "ai2thor-object-metadata.json"
    return tuple(tuple(scene) for group in json.loads(file.read_text()).values() for scene in group)


@cache
def objects() -> tuple[dict[str, Any], ...]:
    """All of them."""
    return tuple(found for scene in scenes() for found in scene)


def one(object_type: str, **changes: Any) -> dict[str, Any]:
    """The first recorded object of a type, changed as an action would."""
    return next(found for found in objects() if found["objectType"] == object_type) | changes

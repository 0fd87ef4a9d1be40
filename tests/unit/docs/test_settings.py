"""The page of settings names those there are, with their defaults."""

import json
import re
from pathlib import Path

from kinitro.settings import ServiceSettings

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def shown(value: object) -> str:
    """A default as the page has it."""
    match value:
        case None:
            return "none"
        case bool() | list() | dict():
            return f"`{json.dumps(value)}`"
        case float():
            return f"`{value:g}`"
        case _:
            return f"`{value}`"


def test_the_page_of_settings_has_every_variable_with_its_default_and_a_meaning() -> None:
    rows = re.findall(r"^\| `(KINITRO_\w+)` \| (.+?) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    there_are = [
        ((kind.model_config["env_prefix"] + name).upper(), shown(field.get_default(call_default_factory=True)))
        for kind in ServiceSettings.__subclasses__()
        for name, field in kind.model_fields.items()
    ]
    ours = sorted(one for one in there_are if one[0].startswith("KINITRO_"))
    assert sorted((variable, default) for variable, default, _ in rows) == ours

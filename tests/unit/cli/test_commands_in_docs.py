"""Every `kinitro` command that a page shows is one that this version takes: its name, its flags, its values."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.core

from kinitro.cli.app import app

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
END = re.compile(r"\s(?:\||&&|&|>|2>|;|#)(?=\s|$)")


def commands(page: Path) -> Iterator[str]:
    """Those of its shell blocks, and whole ones between back quotes, without what is piped, chained or commented on."""
    text = page.read_text()
    for block in re.findall(r"```(?:bash|sh|console)?\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                if match := re.match(r"\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:sudo )?(?:uv run )?kinitro\s(.*)", part):
                    yield END.split(match[1])[0].strip()
    yield from re.findall(
        r"`(?:uv run )?kinitro ((?:[a-z-]+ )+--?[^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    )


SHOWN = [(page.relative_to(ROOT), command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "shown"), SHOWN, ids=[f"{page.name}: {command}" for page, command in SHOWN])
def test_a_command_that_a_page_shows_is_taken_as_it_stands(page: Path, shown: str) -> None:
    words = shlex.split(re.sub(r"\$\(.*?\)|\$\w+|<[\w-]+>|\.\.\.", "1", shown))
    command = typer.main.get_command(app)
    while isinstance(command, typer.core.TyperGroup):
        name = words.pop(0)
        assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[name]
    command.make_context("kinitro", words)

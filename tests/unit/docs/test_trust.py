"""docs/trust.md points at tests that are there, and leaves no row without one, or a word that there is none."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "trust.md").read_text()
REFERENCES = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
ROWS = [
    [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith(("| --- ", "| against "))
]


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(function.name for function in functions)


@pytest.mark.parametrize(("path", "name"), REFERENCES, ids=[name for _, name in REFERENCES])
def test_every_test_it_names_exists(path: str, name: str) -> None:
    assert name in names_in(ROOT / path)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]}: {row[1]}" for row in ROWS])
def test_every_row_points_at_a_test_or_says_that_there_is_none(row: list[str]) -> None:
    assert len(row) == 5
    assert re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`", row[-1]) or row[-1].startswith("no test")


def test_everyone_who_could_cheat_has_a_table() -> None:
    headings = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    assert [heading.split(" (")[0] for heading in headings] == [
        *("A miner", "An executor's operator", "The scheduler's operator", "A validator", "The hub", "The chain")
    ]
    assert len(ROWS) > 30

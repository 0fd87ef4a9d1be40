"""The user's own guide, verbatim, cut into the pieces that the tests run: all of it is the guide's own text."""

import json
import re
from pathlib import Path
from typing import Any

GUIDE = (Path(__file__).parent / "e2e-guide.md").read_text()
THEIR_NETWORK = "ws://10.0.0.3:9944"
THEIR_USER = "<your-username>"
ENVIRONMENTS, EPISODES = 8, 2
"""What a cycle of the guide's has."""

NOT_RUN = {
    'export HF_TOKEN="hf_xxx..."': "a place to fill in; the tests set HF_TOKEN to a token of their local hub",
    'export BASILICA_API_TOKEN="basilica_xxx..."': "a place to fill in",
    "uv run kinitro env build procthor --tag kinitro/procthor:v1  # Optional, x86_64 Linux only": "optional, and large",
    'NETWORK="test"': "the public test network can't be reached from CI",
    "NETUID=<your_netuid>": "a place to fill in, for the same",
}
"""Commands of the guide that no test here runs, and why."""


def section(title: str) -> str:
    """The text under a heading, up to the next one of its own level or above."""
    match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,9}} |\Z)", _marked(GUIDE), re.MULTILINE | re.DOTALL)
    assert match is not None, f"the guide has no heading {title!r}"
    level = len(match[1])
    rest = _marked(GUIDE)[match.start(2) :]
    end = re.search(rf"^#{{1,{level}}} ", rest, re.MULTILINE)
    return (rest[: end.start()] if end else rest).replace(_COMMENT, "#")


_COMMENT = "\0"


def _marked(text: str) -> str:
    """The text with comments inside code blocks hidden, so that they are not taken for headings."""
    return re.sub(r"```.*?```", lambda match: match[0].replace("#", _COMMENT), text, flags=re.DOTALL)


def code(title: str, number: int = 0) -> str:
    """The numbered code block under a heading."""
    return re.findall(r"```(?:bash)?\n(.*?)```", section(title), re.DOTALL)[number]


def table(title: str) -> dict[str, tuple[str, ...]]:
    """A table's rows by their first cell, without its heading and code marks."""
    rows = [line.strip("|").split("|") for line in section(title).splitlines() if line.startswith("|")]
    cells = [tuple(cell.strip().strip("`") for cell in row) for row in rows[2:]]
    return {first: rest for first, *rest_ in cells for rest in [tuple(rest_)]}


def mode(name: str) -> str:
    """Step 5's commands for one mode."""
    _, docker, basilica = re.split(
        r"^# For (?:Docker|Basilica) mode.*\n", code("Step 5: Start Executor"), flags=re.MULTILINE
    )
    return {"docker": docker, "basilica": basilica}[name]


def documents(shown: str) -> list[dict[str, Any]]:
    """The JSON documents that Step 6 shows: statistics, health and scores, one after another."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (start := shown.find("{", at)) >= 0:
        document, at = decoder.raw_decode(shown, start)
        found.append(document)
    return found


def shows(text: str, line: str) -> bool:
    """Whether a log has a line like this one of the guide, with the same keys in the same order."""
    event, *pairs = line.split()
    keys = " ".join(rf"{pair.partition('=')[0]}=\S+" for pair in pairs)
    return re.search(rf"{event} +{keys}", text) is not None


def headings(title: str) -> list[str]:
    """The quoted headings under another one."""
    return re.findall(r'^### "(.+)"$', section(title), re.MULTILINE)


BUILDS = [line for line in code("Build Docker Images").splitlines() if line.startswith("uv run")]
BUILD_METAWORLD, BUILD_PROCTHOR, BUILD_MINER = BUILDS
DATABASE = code("Database")
NETWORK = code("Bittensor Network")
RESET = code("Step 1: Reset Database")
DEPLOY = code("Step 2: Create and Deploy Test Policy")
API = code("Step 3: Start API Server")
SCHEDULER = code("Step 4: Start Scheduler")
EXECUTOR = mode("docker")
BASILICA = mode("basilica")
MONITOR = code("Step 6: Monitor Progress")
SCRIPT = code("Quick Test Script")
SHOW_COMMITMENT = re.search(r"`(uv run kinitro miner show-commitment .*)`", section("Troubleshooting"))[1]

RUN = [
    BUILD_METAWORLD,
    BUILD_MINER,
    DATABASE,
    NETWORK,
    RESET,
    DEPLOY,
    API,
    SCHEDULER,
    EXECUTOR,
    BASILICA,
    MONITOR,
    SCRIPT,
]


def command_lines(text: str) -> set[str]:
    """What of a piece is not a comment."""
    return {line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")}

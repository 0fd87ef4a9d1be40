"""Writes a policy's requirements.txt: every package that it needs, at one version, with hashes. Needs uv or pip."""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kinitro.deployments.requirements import FILE_NAME, PROVIDED, Requirement, canonical_name, parse_requirements
from kinitro.errors import ConfigurationError, PolicyError

WANTED_FILE = "requirements.in"
PYTHON_VERSION = "3.11"
"""What policies run on when they are evaluated, on x86-64 Linux."""
_TIMEOUT_S = 600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HEADER = f"# Made from {WANTED_FILE} by `kinitro miner check PATH --lock`. Do not edit.\n"


@dataclass(frozen=True, slots=True)
class Locked:
    """What was written, and by which tool it was resolved."""

    path: Path
    requirements: tuple[Requirement, ...]
    tool: str


def lock_requirements(folder: Path) -> Locked:
    """Resolves requirements.in and writes requirements.txt, without what every policy finds installed.

    Raises `ConfigurationError` when there is no requirements.in, neither uv nor pip, or they find no solution.
    """
    wanted = folder / WANTED_FILE
    if not wanted.is_file():
        raise ConfigurationError(
            f"{folder} has no {WANTED_FILE}, so there is nothing to lock.",
            advice=f"Write the packages that your policy imports into {wanted}, one name a line.",
        )
    with tempfile.TemporaryDirectory(prefix="kinitro-lock-") as scratch:
        if tool := shutil.which("uv"):
            found = _with_uv(tool, wanted, Path(scratch))
        elif tool := shutil.which("pip") or shutil.which("pip3"):
            found = _with_pip(tool, wanted, Path(scratch))
        else:
            raise ConfigurationError("Locking needs uv or pip, and neither is installed.", advice="pip install uv")
    kept = sorted((each for each in found if each.key not in PROVIDED), key=lambda each: each.key)
    path = folder / FILE_NAME
    path.write_text(_HEADER + "".join(_lines(kept)))
    return Locked(path, tuple(kept), Path(tool).name)


def unlocked(folder: Path, locked: Iterable[Requirement]) -> list[str]:
    """The packages of requirements.in that requirements.txt does not name and that no policy finds installed."""
    wanted = folder / WANTED_FILE
    text = wanted.read_text(errors="replace") if wanted.is_file() else ""
    names = [found[0] for line in text.splitlines() if (found := _NAME.match(line.strip()))]
    known = {*PROVIDED, *(each.key for each in locked)}
    return [name for name in names if canonical_name(name) not in known]


def _with_uv(tool: str, wanted: Path, scratch: Path) -> Iterable[Requirement]:
    output = scratch / "locked.txt"
    _run(
        [
            *(tool, "pip", "compile", str(wanted), "--output-file", str(output), "--quiet", "--no-header"),
            *("--generate-hashes", "--only-binary", ":all:", "--no-annotate", "--strip-extras", "--no-emit-index-url"),
            *("--python-version", PYTHON_VERSION, "--python-platform", "x86_64-manylinux_2_28"),
        ]
    )
    try:
        return parse_requirements(output.read_text())
    except PolicyError as error:
        raise ConfigurationError(
            f"What uv found is not accepted: {error.message}", advice=f"Change {wanted} and lock again."
        ) from error


def _with_pip(tool: str, wanted: Path, scratch: Path) -> Iterable[Requirement]:
    report = scratch / "report.json"
    _run(
        [
            *(tool, "install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report)),
            *("--only-binary", ":all:", "--target", str(scratch / "target"), "--python-version", PYTHON_VERSION),
            *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"),
            *("--requirement", str(wanted)),
        ]
    )
    return [
        Requirement(
            canonical_name(item["metadata"]["name"]),
            item["metadata"]["version"],
            (item["download_info"]["archive_info"]["hashes"]["sha256"],),
        )
        for item in json.loads(report.read_text())["install"]
    ]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"{Path(command[0]).name} found no solution within {_TIMEOUT_S:.0f} s.", advice="Check the network."
        ) from None
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise ConfigurationError(
            f"{Path(command[0]).name} can't lock the requirements (wheels only):\n{said}",
            advice=f"Change {WANTED_FILE} so that every package has a wheel for Python {PYTHON_VERSION} on Linux.",
        )


def _lines(requirements: Iterable[Requirement]) -> Iterable[str]:
    for each in requirements:
        hashes = "".join(f" \\\n    --hash=sha256:{digest}" for digest in each.hashes)
        yield f"{each.name}=={each.version}{hashes}\n"

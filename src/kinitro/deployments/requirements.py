"""A policy's requirements.txt: only exact versions with hashes, so that what was committed is what runs.

No dependency is resolved when a policy is evaluated: every package that it needs is in the file. Nothing in it may
reach the network in any other way, so options, addresses and anything that is not a name are refused, line by line.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kinitro.errors import PolicyError

FILE_NAME = "requirements.txt"
PROVIDED = ("msgpack", "numpy", "starlette", "uvicorn")
"""What every policy finds installed, without asking."""
MAX_BYTES = 1024 * 1024
MAX_REQUIREMENTS = 500

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_SHAPE = "Only lines `name==version --hash=sha256:...` are taken."
_ADVICE = "Write what you need into requirements.in and run `kinitro miner check PATH --lock`."


@dataclass(frozen=True, slots=True)
class Requirement:
    """One package at one version. The wheel that is installed has one of these SHA-256 digests."""

    name: str
    version: str
    hashes: tuple[str, ...]

    @property
    def key(self) -> str:
        """The name as package indexes compare it."""
        return canonical_name(self.name)

    @property
    def line(self) -> str:
        """As pip takes it."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in self.hashes)])


def canonical_name(name: str) -> str:
    """A package's name as indexes compare it: lower case, each run of `-_.` one `-`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_requirements(folder: Path) -> tuple[Requirement, ...]:
    """What a policy folder asks for; nothing when it has no requirements.txt.

    Raises `PolicyError` (`requirements_refused`) that names the first line that is not accepted.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return ()
    if path.stat().st_size > MAX_BYTES:
        raise _refusal(f"it is larger than {MAX_BYTES} bytes")
    try:
        return parse_requirements(path.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise _refusal("it is not UTF-8 text") from None


def parse_requirements(text: str) -> tuple[Requirement, ...]:
    """The requirements in the text of a requirements.txt. Raises as `read_requirements`."""
    found: dict[str, Requirement] = {}
    for number, line in _logical_lines(text):
        problem = _problem(line)
        if problem is not None:
            raise _refusal(f"line {number}, {line[:120]!a}, {problem}")
        requirement = _requirement(line)
        if requirement.key in found:
            raise _refusal(f"line {number} names {requirement.name} a second time")
        found[requirement.key] = requirement
    if len(found) > MAX_REQUIREMENTS:
        raise _refusal(f"it names {len(found)} packages; at most {MAX_REQUIREMENTS} are taken")
    return tuple(found.values())


def requirements_digest(requirements: Iterable[Requirement]) -> str | None:
    """SHA-256 of what is asked for, in any order; None for nothing."""
    lines = sorted(requirement.line for requirement in requirements)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else None


def _refusal(problem: str) -> PolicyError:
    return PolicyError(f"{FILE_NAME}: {problem}. {_SHAPE}", code="requirements_refused", advice=_ADVICE)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, those that end in a backslash joined with the next; each with its first number."""
    pending, first = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        first = first if pending else number
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        if line.endswith("\\"):
            pending += line[:-1].rstrip() + " "
            continue
        if complete := (pending + line).strip():
            yield first, complete
        pending = ""
    if pending.strip():
        yield first, pending.strip()


def _problem(line: str) -> str | None:
    """Why a line is not accepted, in words for its writer."""
    specifier, *options = line.split()
    name, exactly, version = specifier.partition("==")
    place = "://" in line or "@" in line or specifier.startswith((".", "/")) or "+" in name
    # In this order: the first that holds says most about what the writer meant.
    reasons = {
        "is an option": specifier.startswith("-"),
        "names a place instead of a package": place,
        "has a condition": ";" in line,
        "does not say exactly which version": not exactly,
        "asks for extras: name the packages they stand for": "[" in name,
        "is not a name and an exact version": not (_NAME.fullmatch(name) and _VERSION.fullmatch(version)),
        "has no hash": not options,
        "has something besides SHA-256 hashes": not all(_HASH.fullmatch(option) for option in options),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _requirement(line: str) -> Requirement:
    specifier, *options = line.split()
    name, _, version = specifier.partition("==")
    return Requirement(name, version, tuple(option.rpartition(":")[2] for option in options))

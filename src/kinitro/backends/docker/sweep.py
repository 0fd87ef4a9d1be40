"""Runs, and what is left of those that died. A run holds a lock on a file as long as it lives, whoever kills it."""

import contextlib
import fcntl
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kinitro.backends.docker import firewall
from kinitro.backends.docker.engine import Engine
from kinitro.backends.docker.hosts import connected
from kinitro.backends.docker.settings import HOME_LABEL, RUN_LABEL, DockerSettings


def begin_run(settings: DockerSettings) -> tuple[str, IO[str]]:
    """A new run's name (6 hex digits) and its lock, held while the file is open, by any process that inherits it."""
    settings.runs.mkdir(parents=True, exist_ok=True)
    while True:
        run = secrets.token_hex(3)
        lock = _lock_path(settings, run).open("w")
        if _try_lock(lock):
            return run, lock
        lock.close()


def end_run(engine: Engine, settings: DockerSettings, run: str) -> int:
    """Removes everything of a run, its firewall rule included. Safe to call twice; says how much there was."""
    removed = engine.remove_labelled(f"{RUN_LABEL}={run}")
    firewall.remove(engine, settings, run)
    _lock_path(settings, run).unlink(missing_ok=True)
    return removed


def sweep(engine: Engine, settings: DockerSettings) -> int:
    """Removes what is left of dead runs of this state directory; says how many things were removed."""
    return sum(_end_if_dead(engine, settings, run) for run in _known_runs(engine, settings))


async def clean_up(settings: DockerSettings) -> int:
    """Connects, sweeps, and says how many things were removed: `kinitro executor --cleanup`."""
    async with connected(settings.host) as (engine, _):
        return await engine.do("The sweep", lambda: sweep(engine, settings))


def _known_runs(engine: Engine, settings: DockerSettings) -> set[str]:
    noted = {path.stem for path in settings.runs.glob("*.lock")}
    containers, networks, volumes = engine.labelled(f"{HOME_LABEL}={settings.home}")
    labels = [container.labels for container in containers]
    labels += [thing.attrs.get("Labels") or {} for thing in (*networks, *volumes)]
    return noted | {each[RUN_LABEL] for each in labels if RUN_LABEL in each}


def _end_if_dead(engine: Engine, settings: DockerSettings, run: str) -> int:
    with _locked(_lock_path(settings, run)) as dead:
        return end_run(engine, settings, run) if dead else 0


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        yield _try_lock(file)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_path(settings: DockerSettings, run: str) -> Path:
    return settings.runs / f"{run}.lock"

"""What is left of runs that died, and its removal (`kinitro.backends.runs` says who lives)."""

from kinitro.backends.docker import firewall
from kinitro.backends.docker.engine import Engine
from kinitro.backends.docker.hosts import connected
from kinitro.backends.docker.settings import HOME_LABEL, RUN_LABEL, DockerSettings
from kinitro.backends.runs import forget_run, if_dead, noted_runs


def end_run(engine: Engine, settings: DockerSettings, run: str) -> int:
    """Removes everything of a run, its firewall rule included. Safe to call twice; says how much there was."""
    removed = engine.remove_labelled(f"{RUN_LABEL}={run}")
    firewall.remove(engine, settings, run)
    forget_run(settings.runs, run)
    return removed


def sweep(engine: Engine, settings: DockerSettings) -> int:
    """Removes what is left of dead runs of this state directory; says how many things were removed."""
    return sum(_end_if_dead(engine, settings, run) for run in _known_runs(engine, settings))


async def clean_up(settings: DockerSettings) -> int:
    """Connects, sweeps, and says how many things were removed: `kinitro executor --cleanup`."""
    async with connected(settings.host) as (engine, _):
        return await engine.do("The sweep", lambda: sweep(engine, settings))


def _known_runs(engine: Engine, settings: DockerSettings) -> set[str]:
    containers, networks, volumes = engine.labelled(f"{HOME_LABEL}={settings.home}")
    labels = [container.labels for container in containers]
    labels += [thing.attrs.get("Labels") or {} for thing in (*networks, *volumes)]
    return noted_runs(settings.runs) | {each[RUN_LABEL] for each in labels if RUN_LABEL in each}


def _end_if_dead(engine: Engine, settings: DockerSettings, run: str) -> int:
    with if_dead(settings.runs, run) as dead:
        return end_run(engine, settings, run) if dead else 0

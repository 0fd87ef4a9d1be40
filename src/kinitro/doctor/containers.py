"""Docker mode's prerequisites, each where the one before holds: engine, images, the proof of isolation."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import kinitro
from kinitro.backends.base import LOCAL_HOST
from kinitro.backends.images import source_revision
from kinitro.backends.threads import in_daemon_thread
from kinitro.doctor.findings import Finding, Verdict, failed, ok, skipped, warning
from kinitro.doctor.machine import has_extra, room_finding
from kinitro.errors import ConfigurationError, InfrastructureError
from kinitro.executor.stage import docker_hosts
from kinitro.settings import ExecutorSettings

if TYPE_CHECKING:
    from kinitro.backends.docker import DockerSettings
    from kinitro.backends.docker.engine import Engine

_VERSION = "org.opencontainers.image.version"
_REVISION = "org.opencontainers.image.revision"


async def engine_answers() -> Finding:
    """Whether there is an engine at all: for those who need none, nothing is wrong without one."""
    if not has_extra("docker"):
        return skipped("Docker", "the docker extra is not installed; process mode needs none")
    from kinitro.backends.docker.engine import Engine  # noqa: PLC0415 - optional, and slow to import

    try:
        engine = await in_daemon_thread(Engine.connect)
    except ConfigurationError as error:
        reason = error.message.partition(":")[0]
        return skipped("Docker", f"{reason}; executors of Docker mode need it, nobody else")
    with contextlib.closing(engine):
        version = await engine.do("The engine", lambda: engine.client.version()["Version"])
    return ok("Docker", f"engine {version} answers")


async def docker(settings: ExecutorSettings, images: Mapping[str, str]) -> Sequence[Finding]:
    """Engine, images, isolation, on each Docker host. The probe's container is removed; nothing is pulled or swept."""
    if not has_extra("docker"):
        return [skipped(each, "the docker extra is not installed") for each in ("Docker", "Images", "Isolation")]
    hosts = docker_hosts(settings)
    found = await asyncio.gather(*(_host(host, images) for host in hosts))
    if len(hosts) == 1:
        return found[0]
    return [
        replace(one, text=f"{host.host}: {one.text}") for host, ones in zip(hosts, found, strict=True) for one in ones
    ]


async def _host(host: "DockerSettings", images: Mapping[str, str]) -> list[Finding]:
    from kinitro.backends.docker.hosts import connected  # noqa: PLC0415 - optional, and slow to import

    try:
        async with connected(host.host) as (engine, _):
            facts = await engine.do("The engine", engine.client.info)
            looked = [await _image(engine, name, image) for name, image in {"miner": host.image, **images}.items()]
    except (ConfigurationError, InfrastructureError) as error:
        gone = "needs an engine that answers"
        return [
            failed("Docker", error.message, error.advice),
            skipped("Images", gone),
            skipped("Isolation", gone),
        ]
    answers = ok("Docker", f"engine {facts.get('ServerVersion')} answers")
    room = _room(str(facts.get("DockerRootDir", ""))) if host.host == LOCAL_HOST else []
    if looked[0].verdict is Verdict.FAILED:
        return [answers, *room, *looked, skipped("Isolation", f"the probe needs {host.image}")]
    return [answers, *room, *looked, await _isolation(host)]


def _room(root: str) -> list[Finding]:
    place = Path(root)
    # An engine that DOCKER_HOST names elsewhere has its folder there.
    return [room_finding("Docker's disk", place, 10.0)] if root and place.is_dir() else []


async def _image(engine: "Engine", name: str, image: str) -> Finding:
    subject = f"{name} image"
    labels = await engine.do("The images", partial(engine.labels_of, image))
    build = f"kinitro env build {name} --tag {image}"
    if labels is None:
        return failed(subject, f"{image} is not on this machine.", f"Build it: {build}")
    version, revision = labels.get(_VERSION), labels.get(_REVISION, "unknown")
    if version is None:
        return warning(subject, f"{image} does not say which Kinitro it was built by.", f"Build it anew: {build}")
    if version != kinitro.__version__:
        text = f"{image} was built by Kinitro {version}, and this is {kinitro.__version__}."
        return failed(subject, text, f"Build it anew: {build}")
    here = await asyncio.to_thread(source_revision)
    if "unknown" not in (revision, here) and revision != here:
        text = f"{image} was built from {revision[:12]}, and this source is at {here[:12]}."
        return warning(subject, text, f"If environments have changed since, build it anew: {build}")
    return ok(subject, f"{image}, of this version")


async def _isolation(host: "DockerSettings") -> Finding:
    from kinitro.backends.docker import DockerBackend  # noqa: PLC0415 - optional, and slow to import

    # A state folder of its own: what other executors left is none of its business.
    folder = tempfile.mkdtemp(prefix="kinitro-doctor-")
    try:
        async with DockerBackend(replace(host, state=Path(folder))):
            pass
    except (ConfigurationError, InfrastructureError) as error:
        return failed("Isolation", error.message, error.advice)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ok("Isolation", "a container like a policy's reached neither this host nor the outside")

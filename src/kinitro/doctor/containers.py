"""Docker mode's prerequisites, each where the one before holds: engine, images, the proof of isolation."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import kinitro
from kinitro.backends.images import source_revision
from kinitro.deployments.threads import in_daemon_thread
from kinitro.doctor.findings import Finding, Verdict, failed, ok, skipped, warning
from kinitro.doctor.machine import has_extra, room_finding
from kinitro.errors import ConfigurationError, InfrastructureError
from kinitro.settings import ExecutorSettings

if TYPE_CHECKING:
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
    except ConfigurationError:
        return skipped("Docker", "no engine answers; executors of Docker mode need one, nobody else")
    with contextlib.closing(engine):
        version = await engine.do("The engine", lambda: engine.client.version()["Version"])
    return ok("Docker", f"engine {version} answers")


async def docker(settings: ExecutorSettings, families: Sequence[str]) -> Sequence[Finding]:
    """Engine, images, isolation. The probe's container is removed again; nothing is pulled or swept."""
    if not has_extra("docker"):
        return [skipped(each, "the docker extra is not installed") for each in ("Docker", "Images", "Isolation")]
    from kinitro.backends.docker.engine import Engine  # noqa: PLC0415 - optional, and slow to import

    try:
        engine = await in_daemon_thread(Engine.connect)
    except ConfigurationError as error:
        gone = "needs an engine that answers"
        return [
            failed("Docker", error.message, error.advice),
            skipped("Images", gone),
            skipped("Isolation", gone),
        ]
    with contextlib.closing(engine):
        found, root = await _engine(engine)
        images = {family: settings.eval_images.get(family, f"kinitro/{family}:v1") for family in families}
        wanted = {"miner": settings.miner_deployment_image, **images}
        looked = [await _image(engine, name, image) for name, image in wanted.items()]
    isolation = await _isolation(settings) if looked[0].verdict is not Verdict.FAILED else _no_runner(wanted["miner"])
    return [*found, *_room(root), *looked, isolation]


async def _engine(engine: "Engine") -> tuple[list[Finding], str]:
    facts: Mapping[str, object] = await engine.do("The engine", engine.client.info)
    return [ok("Docker", f"engine {facts.get('ServerVersion')} answers")], str(facts.get("DockerRootDir", ""))


def _room(root: str) -> list[Finding]:
    place = Path(root)
    # A remote engine's folder is not on this machine.
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


async def _isolation(settings: ExecutorSettings) -> Finding:
    from kinitro.backends.docker import DockerBackend, DockerSettings  # noqa: PLC0415 - optional, and slow to import

    # A state folder of its own: what other executors left is none of its business.
    folder = tempfile.mkdtemp(prefix="kinitro-doctor-")
    try:
        async with DockerBackend(DockerSettings(Path(folder), settings.miner_deployment_image)):
            pass
    except (ConfigurationError, InfrastructureError) as error:
        return failed("Isolation", error.message, error.advice)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ok("Isolation", "a container like a policy's reached neither this host nor the outside")


def _no_runner(image: str) -> Finding:
    return skipped("Isolation", f"the probe needs {image}")

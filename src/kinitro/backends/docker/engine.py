"""The Docker engine: the one file that imports its SDK. The SDK blocks, so calls go through a few threads."""
# Any in this file: the SDK publishes no types.

import asyncio
import contextlib
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Self, TypeVar

from kinitro.errors import ConfigurationError, InfrastructureError, how_to_install

T = TypeVar("T")
_THREADS = 16
_CALL_TIMEOUT_S = 60
_LOOK_S = 0.1
_GROUP = "sudo usermod -aG docker $USER, then log in again"
_NO_ENGINE_ADVICE = (
    f"Start it (systemctl start docker), join its group ({_GROUP}), or use --eval-mode process for policies that you "
    "trust."
)


class Engine:
    """A connection to an engine. Methods block and raise the SDK's errors: call them through `do`."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")

    @classmethod
    def connect(cls, url: str | None = None) -> Self:
        """Connects to the engine at `url`, else to that of DOCKER_HOST.

        Raises `ConfigurationError` when there is no SDK or no engine answers.
        """
        try:
            import docker
        except ImportError as error:
            raise ConfigurationError(
                f"Docker mode needs the docker extra: {error}.", advice=how_to_install("docker")
            ) from error
        try:
            environment = {"DOCKER_HOST": url} if url else None
            client = docker.from_env(timeout=_CALL_TIMEOUT_S, max_pool_size=_THREADS, environment=environment)
            client.ping()
        except docker.errors.DockerException as error:
            raise no_engine(error) from error
        return cls(client)

    def close(self) -> None:
        """Closes the connection."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.client.close()

    async def do(self, what: str, work: Callable[[], T]) -> T:
        """Runs blocking work in a thread. Whatever the engine refuses is an `InfrastructureError` that names `what`."""
        with translated(what):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # Images

    def ensure_image(self, image: str, how_to_build: str) -> str:
        """The image's id; pulls it when it is not here. `ConfigurationError` "Failed to pull image" when it can't."""
        from docker.errors import APIError, ImageNotFound

        try:
            with contextlib.suppress(ImageNotFound):
                return str(self.client.images.get(image).id)
            return str(self.client.images.pull(image).id)
        except (APIError, ImageNotFound) as error:
            raise ConfigurationError(
                f"Failed to pull image {image}, and it is not on this machine: {error.explanation or error}.",
                advice=f"Build it: {how_to_build}",
            ) from error

    def labels_of(self, image: str) -> Mapping[str, str] | None:
        """The labels of an image on this machine; None when it is not here. Pulls nothing."""
        from docker.errors import ImageNotFound

        with contextlib.suppress(ImageNotFound):
            return dict(self.client.images.get(image).labels)
        return None

    # Networks

    def create_network(
        self, name: str, bridge: str, subnet: IPv4Network, labels: Mapping[str, str], *, internal: bool = True
    ) -> Any:
        """A bridge network, without a way out if internal, or None when the subnet is taken on this machine.

        Addresses of the upper half are given out by the engine, those of the lower half by us alone: an address that
        we gave to one container never goes to another.
        """
        from docker.errors import APIError
        from docker.types import IPAMConfig, IPAMPool

        upper = list(subnet.subnets(prefixlen_diff=1))[1]
        pool = IPAMPool(subnet=str(subnet), gateway=str(subnet[1]), iprange=str(upper))
        try:
            return self.client.networks.create(
                name,
                driver="bridge",
                internal=internal,
                ipam=IPAMConfig(pool_configs=[pool]),
                options={"com.docker.network.bridge.name": bridge},
                labels=dict(labels),
            )
        except APIError as error:
            if "overlap" in str(error).lower():
                return None
            raise

    def remove_network(self, network_id: str) -> None:
        """Removes it and lets go of whoever is still on it. Nothing happens when it is gone."""
        from docker.errors import APIError, NotFound

        with contextlib.suppress(NotFound):
            network = self.client.networks.get(network_id)
            for container_id in network.attrs.get("Containers") or {}:
                with contextlib.suppress(APIError):
                    network.disconnect(container_id, force=True)
            network.remove()

    # Volumes

    def make_volume(self, name: str, folder: Path, image: str, labels: Mapping[str, str]) -> None:
        """A volume that holds a copy of the folder's plain files, readable to everyone, owned by root."""
        self.client.volumes.create(name, labels=dict(labels))
        # Never started: the engine writes into a created container's volumes, on remote hosts too.
        carrier = self.client.containers.create(
            image, command=["true"], labels=dict(labels), network_mode="none", volumes={name: {"bind": "/files"}}
        )
        try:
            carrier.put_archive("/files", packed(folder))
        finally:
            carrier.remove(force=True)

    # Everything with a label

    def labelled(self, label: str) -> tuple[list[Any], list[Any], list[Any]]:
        """Containers (dead ones too), networks and volumes."""
        wanted = {"label": label}
        return (
            self.client.containers.list(all=True, filters=wanted, ignore_removed=True),
            self.client.networks.list(filters=wanted),
            self.client.volumes.list(filters=wanted),
        )

    def remove_labelled(self, label: str) -> int:
        """Removes them all and says how many there were."""
        from docker.errors import APIError, NotFound

        containers, networks, volumes = self.labelled(label)
        for container in containers:
            with contextlib.suppress(NotFound):
                container.remove(force=True, v=True)
        for network in networks:
            self.remove_network(network.id)
        for volume in volumes:
            with contextlib.suppress(NotFound, APIError):
                volume.remove(force=True)
        return len(containers) + len(networks) + len(volumes)

    def run_to_end(self, image: str, command: Sequence[str], timeout_s: float, **options: Any) -> tuple[int, str]:
        """Runs one container to its end and returns its exit code and output."""
        container = self.client.containers.create(image, command=list(command), **options)
        try:
            container.start()
            status = container.wait(timeout=timeout_s)
            return int(status["StatusCode"]), container.logs().decode(errors="replace")
        finally:
            container.remove(force=True)

    @contextlib.contextmanager
    def first_line_of(self, image: str, command: Sequence[str], timeout_s: float, **options: Any) -> Iterator[str]:
        """Runs a container for the length of the block, and gives the first line that it prints; empty when none."""
        container = self.client.containers.create(image, command=list(command), **options)
        try:
            container.start()
            end = time.monotonic() + timeout_s
            while b"\n" not in (said := container.logs(stderr=False)) and time.monotonic() < end:
                time.sleep(_LOOK_S)
            yield said.decode(errors="replace").partition("\n")[0]
        finally:
            container.remove(force=True)


def no_engine(error: Exception) -> ConfigurationError:
    """Why an engine could not be talked to: it is away, or its socket is not for this user."""
    if "Permission denied" in str(error):
        return ConfigurationError(
            "This user may not use the Docker engine: permission denied.", advice=f"Join its group: {_GROUP}."
        )
    return ConfigurationError(f"No Docker engine answers: {error}", advice=_NO_ENGINE_ADVICE)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """The SDK's errors as ours."""
    import requests
    from docker.errors import DockerException, ImageNotFound

    try:
        yield
    except ImageNotFound as error:
        raise InfrastructureError(
            f"Failed to pull image: {what} can't be started: {error.explanation or error}.",
            code="image_missing",
            advice="Build it with `kinitro env build`.",
        ) from error
    except DockerException as error:
        reason = getattr(error, "explanation", None) or error
        raise InfrastructureError(f"{what} can't be started: {reason}.", code="docker_refused") from error
    except (requests.RequestException, OSError) as error:
        raise InfrastructureError(
            f"{what}: the Docker engine does not answer: {error}.", code="docker_unreachable", advice=_NO_ENGINE_ADVICE
        ) from error


def packed(folder: Path) -> Iterator[bytes]:
    """The folder's plain files as a tar stream; links and special files are left out."""
    reading, writing = os.pipe()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            with os.fdopen(writing, "wb") as end, tarfile.open(fileobj=end, mode="w|") as archive:
                archive.add(folder, arcname=".", filter=_plain)
        except (OSError, tarfile.TarError) as error:
            failures.append(error)

    writer = threading.Thread(target=write, name="pack", daemon=True)
    writer.start()
    with os.fdopen(reading, "rb") as end:
        while chunk := end.read(2**20):
            yield chunk
    writer.join()
    if failures:
        raise OSError(f"{folder} can't be read: {failures[0]}")


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if not (entry.isreg() or entry.isdir()):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() else 0o444
    return entry

"""Loads environments for Docker mode, in the affinetes process; at its end everything of the run is removed."""

import argparse
import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kinitro.backends.affinetes.worker import Answer, serve
from kinitro.backends.docker.container import sdk_types
from kinitro.backends.docker.engine import Engine
from kinitro.backends.docker.settings import LOADER_LABEL, DockerSettings
from kinitro.backends.docker.sweep import end_run

_SWEEPS = 3
_WAYS = threading.Lock()


def main() -> None:
    """Serves until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--host", required=True)
    options = parser.parse_args()
    settings = DockerSettings(options.state, options.image, host=options.host)
    serve(_prepare, functools.partial(_end, settings, options.run))


def _prepare() -> Answer:
    import affinetes

    load_env = affinetes.load_env  # imports the rest of it
    logging.getLogger("affinetes").setLevel(logging.ERROR)

    def answer(request: dict[str, Any]) -> None:
        with _way(request["way"]):
            _load(load_env, request["load"])

    return answer


@contextlib.contextmanager
def _way(way: str | None) -> Iterator[None]:
    """What affinetes asks goes to `way`, where the container's own address means nothing to this machine.

    As if it were a proxy: that is what affinetes' HTTP client takes from the environment, and the server behind it
    understands a proxy's requests. One at a time then, since there is one environment.
    """
    if way is None:
        yield
        return
    with _WAYS:
        os.environ["HTTP_PROXY"] = way
        try:
            yield
        finally:
            del os.environ["HTTP_PROXY"]


def _load(load_env: Callable[..., object], arguments: dict[str, Any]) -> None:
    """Starts one container and waits until its server answers. Plain arguments become the SDK's types."""
    from docker.types import EndpointConfig

    options = dict(arguments)
    address, network = options.pop("address"), options["network"]
    options["networking_config"] = {network: EndpointConfig("1.40", ipv4_address=address)}
    options["labels"] |= {LOADER_LABEL: f"affinetes {version('affinetes')}"}
    options |= sdk_types(options)
    # Each ends by its own name, by whoever started it; see `main` for what is left then.
    load_env(mode="docker", env_type="http_based", force_recreate=True, cleanup=False, **options)


def _end(settings: DockerSettings, run: str) -> None:
    """More than once: a container that was being made when we began to look appears after it."""
    engine = Engine.connect()
    for _ in range(_SWEEPS):
        if not end_run(engine, settings, run):
            return


if __name__ == "__main__":
    main()

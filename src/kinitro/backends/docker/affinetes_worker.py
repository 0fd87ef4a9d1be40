"""Runs affinetes in a process of its own: on first use it patches asyncio for the whole process.

Reads one JSON request a line on stdin, answers one a line on stdout. The end of stdin means that the executor is gone,
in whatever way: everything of its run is removed then, and this process ends.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kinitro.backends.docker.container import sdk_types
from kinitro.backends.docker.engine import Engine
from kinitro.backends.docker.settings import DockerSettings
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
    # What affinetes prints must not mix with our answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        _serve(answers)
    finally:
        _end(DockerSettings(options.state, options.image, host=options.host), options.run)
    # Not through the interpreter's end: affinetes would look for containers that are gone.
    os._exit(0)


def _serve(answers: Any) -> None:
    import affinetes

    load_env = affinetes.load_env  # imports the rest of it
    logging.getLogger("affinetes").setLevel(logging.ERROR)
    lock = threading.Lock()
    for line in sys.stdin:
        request = json.loads(line)
        threading.Thread(target=_answer, args=(load_env, request, answers, lock), daemon=True).start()


def _answer(load_env: Callable[..., object], request: dict[str, Any], answers: Any, lock: threading.Lock) -> None:
    answer: dict[str, object] = {"id": request["id"]}
    try:
        with _way(request["way"]):
            _load(load_env, request["load"])
    except Exception as error:  # noqa: BLE001 - affinetes has one error class for everything; the text is the cause
        answer["error"] = str(error)
    with lock, contextlib.suppress(OSError):
        print(json.dumps(answer), file=answers)


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

"""Listens to the engine, to tell a container that ended from one that was ended: whose fault it was depends on it."""

import contextlib
import threading
import time
from typing import Any

from kinitro.backends.docker.engine import Engine

_PAUSE_S = 0.5


class EngineWatch:
    """Follows the events of one run's containers in a thread, and counts the engine's own deaths.

    Any in this file: the SDK publishes no types.
    """

    def __init__(self, engine: Engine, label: str) -> None:
        self._engine = engine
        self._label = label
        self._killed: set[str] = set()
        self._losses = 0
        self._stream: Any = None
        self._closed = False
        self._connected = threading.Event()

    @property
    def losses(self) -> int:
        """How often the engine went away. A container that did not see it is not to blame for its own end."""
        return self._losses

    def was_killed(self, container_id: str) -> bool:
        """Whether someone asked the engine to kill or stop it."""
        return container_id in self._killed

    def start(self) -> None:
        """Begins to listen, and waits until it does."""
        threading.Thread(target=self._follow, name="docker-events", daemon=True).start()
        self._connected.wait(10.0)

    def close(self) -> None:
        """Stops listening."""
        self._closed = True
        if self._stream is not None:
            with contextlib.suppress(OSError, AttributeError):  # a broken stream has no socket to shut
                self._stream.close()

    def _follow(self) -> None:
        import requests
        from docker.errors import DockerException
        from urllib3.exceptions import HTTPError

        wanted = {"type": "container", "label": self._label, "event": ["kill", "stop"]}
        while not self._closed:
            with contextlib.suppress(DockerException, requests.RequestException, HTTPError, OSError, ValueError):
                self._stream = self._engine.client.events(decode=True, filters=wanted)
                self._connected.set()
                for event in self._stream:
                    self._killed.add(event["Actor"]["ID"])
            self._losses += not self._closed
            time.sleep(_PAUSE_S)

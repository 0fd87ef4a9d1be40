"""Runs environments for Basilica mode, in the affinetes process; at its end everything of the run is deleted.

affinetes makes one deployment for each call, names it by the call's task id, and leaves its deletion to a task that
nobody waits for: so each call has an id of its own, and is over when all its tasks are.
"""

import argparse
import asyncio
import logging
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kinitro.backends.affinetes.worker import Answer, serve
from kinitro.backends.basilica.service import Basilica
from kinitro.backends.basilica.settings import is_private
from kinitro.backends.basilica.sweep import end_run
from kinitro.errors import InfrastructureError
from kinitro.logs import configure_logging, get_logger

_LAST_TASKS_S = 60.0
_log = get_logger("basilica")


def main() -> None:
    """Serves until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    options = parser.parse_args()
    configure_logging()
    calls = _Calls()
    serve(calls.prepare, lambda: _end(options.runs, options.run), calls.cancel)


class _Calls:
    """The calls under way, each on a loop of its own thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Task[object]]] = {}

    def prepare(self) -> Answer:
        """Nothing yet: affinetes takes a second or two to import, and only a first call needs it."""
        return self.answer

    def answer(self, request: dict[str, Any]) -> object:
        """One call from its deployment's start to its end."""
        # Not asyncio.run: affinetes has replaced it by one for the main thread.
        loop = asyncio.SelectorEventLoop()
        asyncio.set_event_loop(loop)
        task = loop.create_task(self._call(request))
        with self._lock:
            self._running[request["id"]] = (loop, task)
        try:
            return loop.run_until_complete(task)
        except asyncio.CancelledError as error:
            raise InfrastructureError("nobody waits for it any more", code="cancelled") from error
        finally:
            with self._lock:
                del self._running[request["id"]]
            loop.close()

    def cancel(self, number: int) -> None:
        """Nobody waits for this one any more."""
        with self._lock:
            if number in self._running:
                loop, task = self._running[number]
                loop.call_soon_threadsafe(task.cancel)

    async def _call(self, request: dict[str, Any]) -> object:
        env = _load_env()(mode="basilica", env_type="http_based", cleanup=False, **request["load"])
        _insist_on_privacy(env)
        # affinetes makes the deployment's time to live of the episode's, and the SDK takes whole seconds only.
        body = request["body"] | {"task_id": request["task_id"], "timeout": math.ceil(request["body"]["timeout"])}
        try:
            return await getattr(env, request["method"])(**body)
        finally:
            await _last_tasks()
            await env.cleanup()


def _load_env() -> Callable[..., Any]:  # affinetes has no types
    import affinetes  # noqa: PLC0415 - it patches asyncio, from here on

    load_env: Callable[..., Any] = affinetes.load_env  # imports the rest of it
    logging.getLogger("affinetes").setLevel(logging.ERROR)
    return load_env


async def _last_tasks() -> None:
    """Affinetes' deletion among them."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=_LAST_TASKS_S)


def _insist_on_privacy(env: Any) -> None:  # affinetes has no types
    """Nothing is sent to a deployment without https: secrets go with every call. affinetes itself takes any address."""
    backend = env._backend  # noqa: SLF001 - there is no other place between its start and its first call
    create = backend._create_deployment  # noqa: SLF001 - as above

    async def checked(*arguments: Any) -> Any:
        deployment = await create(*arguments)
        if not is_private(deployment.url):
            await backend._delete_deployment(deployment.name)  # noqa: SLF001 - as above
            raise InfrastructureError(f"its address {deployment.url!a} is not https", code="basilica_error")
        return deployment

    backend._create_deployment = checked  # noqa: SLF001 - as above


def _end(runs: Path, run: str) -> None:
    service = Basilica(os.environ["BASILICA_API_URL"], os.environ["BASILICA_API_TOKEN"])
    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(end_run(service, runs, run))
    except InfrastructureError as error:
        _log.error("deployments_left", run=run, error=error.message, note="the next start looks for them again")


if __name__ == "__main__":
    main()

"""A local stand-in for Basilica: the routes that its SDK calls, unmodified, with real local servers behind them.

It is not Basilica, and says so at `/` and in the header `X-Kinitro-Local-Basilica`. A deployment is a process of this
machine: no container, no image, no https, no isolation. An image stands for the command that it would run; a
deployment's own command runs as it is, with the port to listen on in `PORT` (all pods share this machine's). A pod
that ends is `Failed` and is not started again. What the true service would do differently is not known here.

    python -m kinitro.testing.basilica --port 5556 --token basilica_local
    export BASILICA_API_URL=http://127.0.0.1:5556 BASILICA_API_TOKEN=basilica_local
"""

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from kinitro.backends.base import LaunchSpec, Role, Running
from kinitro.backends.process import ProcessBackend
from kinitro.errors import InfrastructureError

# Any in this file: documents as they come from the SDK.

HEADER = "X-Kinitro-Local-Basilica"
WHAT_IT_IS = "This is a local stand-in for Basilica, made by Kinitro for tests. It is not Basilica.\n"
ENVIRONMENT_SERVER = (
    sys.executable,
    "-P",
    "-m",
    "kinitro.environments.server",
    "--host",
    "127.0.0.1",
    "--port",
    "{port}",
)
"""What the image of an environment stands for."""
_KINDS = {401: "UNAUTHORIZED", 402: "PAYMENT_REQUIRED", 403: "FORBIDDEN", 404: "NOT_FOUND", 409: "CONFLICT"}
_KINDS |= {429: "RATE_LIMITED", 500: "INTERNAL_ERROR", 503: "SERVICE_UNAVAILABLE"}


@dataclass
class BasilicaFault:
    """A misbehaviour: requests of this method whose path holds `path` get this answer, `times` times (None: always)."""

    status: int
    message: str = "told to fail"
    method: str | None = None
    path: str = ""
    times: int | None = None

    def takes(self, method: str, path: str) -> bool:
        """Whether it applies to this request; counts it when it does."""
        if self.times == 0 or self.path not in path or self.method not in (None, method):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(eq=False)
class LocalPod:
    """One deployment, from its creation on; `asked` is the request as it came."""

    name: str
    asked: Mapping[str, Any]
    running: Running | None
    url: str
    created: float = field(default_factory=time.time)
    ended: float | None = None

    @property
    def created_at(self) -> str:
        """As the service writes it."""
        return datetime.fromtimestamp(self.created, UTC).isoformat()


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class LocalBasilica:
    """The service's state and answers.

    `alive` is what exists now, `every` all that was ever made, `seen` every request; `environment` is what every image
    has set. It can be made to fail: `faults` answers requests wrongly, `quota` bounds how many may exist, names that
    hold one of `never_ready` get no server, those that hold one of `undeletable` stay, and `host` is given out as
    everyone's. All may be changed while it runs. `url` is its own, set by `serving`.
    """

    def __init__(
        self,
        backend: ProcessBackend,
        folder: Path,
        *,
        token: str,
        images: Mapping[str, Sequence[str]] | None = None,
        python: Path = Path(sys.executable),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._backend = backend
        self._folder = folder
        self._images = dict(images or {})
        # `python` in a command means this one, as it would in an image.
        path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        self.environment = {"PATH": path} | dict(environment or {})
        self.token = token
        self.alive: dict[str, LocalPod] = {}
        self.every: list[LocalPod] = []
        self.seen: list[tuple[str, str]] = []
        self.faults: list[BasilicaFault] = []
        self.quota: int | None = None
        self.never_ready: set[str] = set()
        self.undeletable: set[str] = set()
        self.host = "127.0.0.1"
        self.url = ""

    def app(self) -> Starlette:
        """The web application."""
        routes = [
            Route("/", self._say_what_it_is),
            Route("/deployments", self._create, methods=["POST"]),
            Route("/deployments", self._list, methods=["GET"]),
            Route("/deployments/{name}", self._get, methods=["GET"]),
            Route("/deployments/{name}", self._delete, methods=["DELETE"]),
            Route("/deployments/{name}/logs", self._logs, methods=["GET"]),
        ]
        return Starlette(routes=routes, exception_handlers={RefusedError: _refused})

    async def vanish(self, name: str) -> None:
        """The service loses a deployment: nobody asked for it, and nothing of it is left."""
        await self._end(self.alive.pop(name))

    async def close(self) -> None:
        """Ends every pod."""
        for name in list(self.alive):
            await self.vanish(name)

    # Routes

    async def _say_what_it_is(self, _request: Request) -> Response:
        return PlainTextResponse(WHAT_IT_IS, headers={HEADER: "stand-in"})

    async def _create(self, request: Request) -> Response:
        await self._admit(request)
        asked = json.loads(await request.body())
        name = asked["instanceName"]
        if name in self.alive:
            raise RefusedError(409, f"Deployment {name} already exists")
        if self.quota is not None and len(self.alive) >= self.quota:
            raise RefusedError(403, f"Quota exceeded: at most {self.quota} deployments")
        # Before the first await: two requests at once must not make the same one.
        pod = self.alive[name] = LocalPod(name, asked, None, "http://127.0.0.1:9")
        self.every.append(pod)
        await self._start(pod)
        return _answer(await self._described(pod))

    async def _list(self, request: Request) -> Response:
        await self._admit(request)
        keys = ("instanceName", "state", "url", "replicas", "createdAt")
        every = [await self._described(pod) for pod in list(self.alive.values())]
        return _answer({"deployments": [{key: one[key] for key in keys} for one in every], "total": len(every)})

    async def _get(self, request: Request) -> Response:
        return _answer(await self._described(await self._found(request)))

    async def _delete(self, request: Request) -> Response:
        pod = await self._found(request)
        if any(part in pod.name for part in self.undeletable):
            raise RefusedError(500, f"Deployment {pod.name} could not be deleted")
        self.alive.pop(pod.name, None)
        await self._end(pod)
        return _answer({"instanceName": pod.name, "state": "Terminating", "message": "deleted"})

    async def _logs(self, request: Request) -> Response:
        pod = await self._found(request)
        lines = int(request.query_params.get("tail", "100"))
        text = "" if pod.running is None else await pod.running.logs(lines)
        return PlainTextResponse(text, headers={HEADER: "stand-in"})

    # What a pod is here

    async def _admit(self, request: Request) -> None:
        """Notes the request, ends what has outlived its time, and refuses whoever is not let in."""
        self.seen.append((request.method, request.url.path))
        for pod in list(self.alive.values()):
            lifetime = pod.asked.get("ttlSeconds")
            if lifetime is not None and time.time() - pod.created > lifetime:
                await self.vanish(pod.name)
        fault = next((each for each in self.faults if each.takes(request.method, request.url.path)), None)
        if fault is not None:
            raise RefusedError(fault.status, fault.message)
        if request.headers.get("authorization") != f"Bearer {self.token}":
            raise RefusedError(401, "Invalid token")

    async def _found(self, request: Request) -> LocalPod:
        await self._admit(request)
        name = request.path_params["name"]
        if name not in self.alive:
            raise RefusedError(404, f"Deployment {name} not found")
        return self.alive[name]

    async def _start(self, pod: LocalPod) -> None:
        command = pod.asked.get("command") or self._images.get(pod.asked["image"])
        if command is None or any(part in pod.name for part in self.never_ready):
            return
        spec = LaunchSpec(
            name=pod.name,
            role=Role.ENVIRONMENT,
            command=("env", "PORT={port}", *command, *(pod.asked.get("args") or ())),
            directory=self._folder,
            environment=self.environment | (pod.asked.get("env") or {}),
        )
        try:
            pod.running = await self._backend.launch(spec)
        except InfrastructureError as error:
            raise RefusedError(500, str(error)) from error
        pod.url = pod.running.url.replace("127.0.0.1", self.host)

    async def _end(self, pod: LocalPod) -> None:
        pod.ended = time.time()
        if pod.running is not None:
            await pod.running.stop(0.2)

    async def _described(self, pod: LocalPod) -> dict[str, Any]:
        state = await _state(pod)
        return {
            "instanceName": pod.name,
            "userId": "local",
            "namespace": "local",
            "image": pod.asked["image"],
            "state": state,
            "url": pod.url,
            "replicas": {"desired": 1, "ready": int(state == "Active")},
            "createdAt": pod.created_at,
        }


async def _state(pod: LocalPod) -> str:
    if pod.running is None:
        return "Pending"
    try:
        return "Active" if await pod.running.exit_code() is None else "Failed"
    except InfrastructureError:
        return "Failed"


def _answer(document: object) -> Response:
    return JSONResponse(document, headers={HEADER: "stand-in"})


def _refused(_request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, RefusedError) else 500
    body = {
        "code": f"BASILICA_API_{_KINDS.get(status, 'ERROR')}",
        "message": str(error),
        "timestamp": datetime.now(UTC).isoformat(),
        "retryable": status in (429, 503),
    }
    return JSONResponse({"error": body}, status, headers={HEADER: "stand-in"})


@asynccontextmanager
async def serving(basilica: LocalBasilica, port: int = 0) -> AsyncIterator[str]:
    """Serves it on loopback and gives its URL, for `BASILICA_API_URL`; ends every pod at the end."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(
            basilica.app(), log_level="critical", ws="none", lifespan="off", timeout_graceful_shutdown=0
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve([listener]))
        try:
            while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
                await asyncio.sleep(0.005)
            basilica.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield basilica.url
        finally:
            server.should_exit = True
            await task
            await basilica.close()


async def _serve(port: int, token: str, images: Mapping[str, Sequence[str]]) -> None:
    async with ProcessBackend() as backend:
        with tempfile.TemporaryDirectory(prefix="kinitro-basilica-") as folder:
            basilica = LocalBasilica(backend, Path(folder), token=token, images=images)
            async with serving(basilica, port) as url:
                print(f"{WHAT_IT_IS}BASILICA_API_URL={url}", flush=True)  # noqa: T201 - a command's output
                await asyncio.Event().wait()


def main() -> None:
    """Serves until told to stop."""
    parser = argparse.ArgumentParser(description=WHAT_IT_IS)
    parser.add_argument("--port", type=int, default=5556, help="port on 127.0.0.1 (default %(default)s)")
    parser.add_argument("--token", default="basilica_local", help="the only one it takes (default %(default)s)")
    parser.add_argument(
        "--environment-image",
        action="append",
        default=["kinitro/metaworld:v1"],
        help="stands for an environment server",
    )
    options = parser.parse_args()
    images = dict.fromkeys(options.environment_image, ENVIRONMENT_SERVER)
    try:
        asyncio.run(_serve(options.port, options.token, images))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

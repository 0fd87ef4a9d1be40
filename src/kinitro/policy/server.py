"""Serves the `Policy` class of the policy.py beside this file: GET /health, POST /reset, POST /act.

This file is complete in itself (numpy, msgpack, starlette, uvicorn) and is copied into every policy folder. Start it
with `python server.py --host 127.0.0.1 --port 8000`. Kinitro's docs/protocol.md describes what travels.

    class Policy:
        needs_images = False            # default True; False spares the rendering
        needs_depth = True              # default False; metric depth too, where the environment has it
        max_concurrent_episodes = 8     # default 1
        def reset(self, task: dict, seed: int): ...     # returns this episode's state, any object
        def act(self, obs: dict, state) -> dict: ...    # {"continuous": {"ee_twist": [6 numbers], "gripper": [1]}}
        def act_batch(self, observations, states): ...  # optional: all that wait at once; returns a list of actions

`obs["proprio"]` maps channels to float64 arrays, `obs["rgb"]` cameras to (height, width, 3) uint8 arrays and
`obs["depth"]` cameras to float32 metres. One thread runs all policy code, so a policy needs no locks.
"""

import argparse
import asyncio
import base64
import contextlib
import importlib
import json
import logging
import queue
import socket
import sys
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

# Any in this file: the policy's own objects (its class, its states) and documents as they come from the wire.

JSON = "application/json"
MSGPACK = "application/msgpack"
MAX_REQUEST_BYTES = 64 * 1024 * 1024
log = logging.getLogger("policy")


class BadRequestError(Exception):
    """The caller's mistake: answered with this HTTP status and message."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class PolicyFailedError(Exception):
    """The policy's own code raised, or returned something that is no action: answered with 500."""


@dataclass(frozen=True)
class _Turn:
    """One call that waits for the policy, and where its answer goes. `observation` is None for a reset."""

    call: Callable[[], Any]
    answer: "asyncio.Future[Any]"
    observation: dict[str, Any] | None = None
    state: Any = None


class PolicyWorker:
    """The one thread that runs policy code. What waits while it is busy is taken together, so batches form."""

    def __init__(self, policy: Any) -> None:
        self._act_batch: Callable[[list[Any], list[Any]], Any] | None = getattr(policy, "act_batch", None)
        self._turns: queue.SimpleQueue[_Turn] = queue.SimpleQueue()
        # A daemon: a policy that hangs must not keep the server from ending.
        threading.Thread(target=self._run, name="policy", daemon=True).start()

    async def do(self, call: Callable[[], Any], observation: dict[str, Any] | None = None, state: Any = None) -> Any:
        """Runs the call in its turn. Raises PolicyFailedError with what the policy raised."""
        turn = _Turn(call, asyncio.get_running_loop().create_future(), observation, state)
        self._turns.put(turn)
        return await turn.answer

    def _run(self) -> None:
        while True:
            turns = [self._turns.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    turns.append(self._turns.get_nowait())
            acts = [turn for turn in turns if turn.observation is not None]
            if self._act_batch is None or len(acts) < 2:
                self._one_by_one(turns)
            else:
                self._one_by_one([turn for turn in turns if turn.observation is None])
                self._together(self._act_batch, acts)

    def _one_by_one(self, turns: Sequence[_Turn]) -> None:
        for turn in turns:
            _deliver(turn, _attempt(turn.call))

    def _together(self, act_batch: Callable[[list[Any], list[Any]], Any], acts: Sequence[_Turn]) -> None:
        answers = _attempt(_batch, act_batch, acts)
        for index, turn in enumerate(acts):
            _deliver(turn, answers if isinstance(answers, PolicyFailedError) else answers[index])


def _batch(act_batch: Callable[[list[Any], list[Any]], Any], acts: Sequence[_Turn]) -> list[Any]:
    actions = act_batch([turn.observation for turn in acts], [turn.state for turn in acts])
    if len(actions) != len(acts):
        raise ValueError(f"act_batch returned {len(actions)} actions for {len(acts)} observations")
    return [action_document(action) for action in actions]


def _attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except (Exception, SystemExit) as error:
        # The outermost turn of the policy's own code: whatever it raises becomes the answer.
        log.exception("the policy failed")
        return PolicyFailedError(f"{type(error).__name__}: {error}")


def _deliver(turn: _Turn, answer: Any) -> None:
    # The loop is closed when the server has already ended.
    with contextlib.suppress(RuntimeError):
        turn.answer.get_loop().call_soon_threadsafe(_settle, turn.answer, answer)


def _settle(future: "asyncio.Future[Any]", answer: Any) -> None:
    if future.cancelled():
        return
    if isinstance(answer, PolicyFailedError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


class PolicyService:
    """Answers the three routes for one policy and keeps the states of its episodes apart."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self._worker = PolicyWorker(policy)
        self._needs_images = bool(getattr(policy, "needs_images", True))
        self._needs_depth = bool(getattr(policy, "needs_depth", False))
        self._max_concurrent_episodes = int(getattr(policy, "max_concurrent_episodes", 1))
        self._kept_episodes = max(16, 2 * self._max_concurrent_episodes)
        self._states: OrderedDict[str, Any] = OrderedDict()
        self._started = time.monotonic()

    def health(self) -> dict[str, Any]:
        """The answer of `GET /health`."""
        return {
            "status": "healthy",
            "model_loaded": True,
            "uptime_seconds": time.monotonic() - self._started,
            "max_concurrent_episodes": self._max_concurrent_episodes,
            "formats": ["json", "msgpack"],
            "needs_images": self._needs_images,
            "needs_depth": self._needs_depth,
        }

    async def reset(self, document: dict[str, Any]) -> dict[str, Any]:
        """Starts an episode; the longest unused one is forgotten when there are too many."""
        task = document.get("task_config")
        if not isinstance(task, dict) or not isinstance(task.get("seed"), int):
            raise BadRequestError("'task_config' must be an object with an integer 'seed'")
        state = await self._worker.do(lambda: self._policy.reset(task, task["seed"]))
        episode_id = uuid.uuid4().hex
        self._states[episode_id] = state
        while len(self._states) > self._kept_episodes:
            self._states.popitem(last=False)
        return {"status": "ok", "episode_id": episode_id}

    async def act(self, document: dict[str, Any]) -> dict[str, Any]:
        """Asks the policy for one action."""
        observation = read_observation(document.get("obs"))
        state = self._state_of(document.get("episode_id"))
        action = await self._worker.do(
            lambda: action_document(self._policy.act(observation, state)), observation, state
        )
        return {"action": action}

    def _state_of(self, episode_id: Any) -> Any:
        if not self._states:
            raise BadRequestError("no episode is running: call /reset first", 409)
        if episode_id is None:
            return next(reversed(self._states.values()))
        if not isinstance(episode_id, str) or episode_id not in self._states:
            raise BadRequestError(f"unknown episode_id {str(episode_id)[:80]!r}: call /reset first", 404)
        self._states.move_to_end(episode_id)
        return self._states[episode_id]


# The wire


def read_observation(obs: Any) -> dict[str, Any]:
    """An OBS document with its images, matrices and channels as arrays."""
    if not isinstance(obs, dict):
        raise BadRequestError("'obs' must be an object")
    try:
        return {
            "proprio": {name: np.asarray(v, dtype=np.float64) for name, v in obs.get("proprio", {}).items()},
            "rgb": {camera: _read_image(image) for camera, image in obs.get("rgb", {}).items()},
            "depth": {camera: _read_image(image) for camera, image in obs.get("depth", {}).items()},
            "cam_intrinsics": {camera: np.asarray(m) for camera, m in obs.get("cam_intrinsics", {}).items()},
            "cam_extrinsics": {camera: np.asarray(m) for camera, m in obs.get("cam_extrinsics", {}).items()},
            "extra": obs.get("extra", {}),
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadRequestError(f"'obs' can't be read: {error!r}") from error


def _read_image(image: dict[str, Any]) -> Any:
    data = image["data"]
    raw = data if isinstance(data, bytes) else base64.b64decode(data, validate=True)
    return np.frombuffer(raw, dtype=np.dtype(image["dtype"])).reshape(image["shape"])


def action_document(action: Any) -> dict[str, Any]:
    """A policy's action, arrays allowed, as an ACTION document."""
    if not isinstance(action, dict):
        raise TypeError(f"act returned {type(action).__name__}, not a dict with 'continuous' or 'discrete'")
    continuous = action.get("continuous") or {}
    discrete = action.get("discrete") or {}
    return {
        "continuous": {name: _numbers(name, values) for name, values in continuous.items()},
        "discrete": {name: int(value) for name, value in discrete.items()},
        "extra": {},
    }


def _numbers(name: str, values: Any) -> list[float]:
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if not np.isfinite(array).all():
        raise ValueError(f"act returned a value in '{name}' that is not finite: {array.tolist()}")
    return array.tolist()


async def _read(request: Request) -> dict[str, Any]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            raise BadRequestError(f"the body is larger than {MAX_REQUEST_BYTES} bytes", 413)
    try:
        document = msgpack.unpackb(bytes(body)) if _format(request) == MSGPACK else json.loads(bytes(body))
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise BadRequestError(f"the body can't be read as {_format(request)}: {error}", 400) from error
    if not isinstance(document, dict):
        raise BadRequestError("the body must be an object")
    return document


def _format(request: Request) -> str:
    media_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    return MSGPACK if media_type == MSGPACK else JSON


def _write(request: Request, document: dict[str, Any]) -> Response:
    if _format(request) == MSGPACK:
        return Response(msgpack.packb(document), media_type=MSGPACK)
    return Response(json.dumps(document), media_type=JSON)


def _refused(_request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, BadRequestError) else 500
    return JSONResponse({"error": str(error)}, status_code=status)


def build_app(policy: Any) -> Starlette:
    """The web application of one policy."""
    service = PolicyService(policy)

    async def health(_request: Request) -> Response:
        return JSONResponse(service.health())

    async def reset(request: Request) -> Response:
        return _write(request, await service.reset(await _read(request)))

    async def act(request: Request) -> Response:
        return _write(request, await service.act(await _read(request)))

    routes = [
        Route("/health", health, methods=["GET"]),
        Route("/reset", reset, methods=["POST"]),
        Route("/act", act, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={BadRequestError: _refused, PolicyFailedError: _refused})


def load_policy(folder: Path) -> Any:
    """Imports `policy.py` of this folder and makes its `Policy`, in the folder's own import path."""
    sys.path.insert(0, str(folder))
    return importlib.import_module("policy").Policy()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket on which nothing is answered yet. Ends with one line where the port can't be had."""
    listener = None
    try:
        # With its protocol: else asyncio leaves Nagle's algorithm on, which costs 40 ms an answer.
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        if listener is not None:
            listener.close()
        cause = error.strerror if isinstance(error, OSError) else error
        sys.exit(
            f"Error: The policy's server can't listen on port {port} of {host}: {cause}.\n"
            "  Stop what uses it, or choose another port with --port."
        )
    return listener


def main() -> None:
    """Serves the policy until told to stop. The port opens once the policy is loaded."""
    parser = argparse.ArgumentParser(description="Serve the policy.py beside this file.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default %(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    listener = listen(arguments.host, arguments.port)
    config = uvicorn.Config(
        build_app(load_policy(Path(__file__).resolve().parent)),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        # An evaluator may be busy with its simulator for a while between two calls.
        timeout_keep_alive=120,
        timeout_graceful_shutdown=2,
    )
    listener.listen(2048)
    log.info("Policy loaded; serving on http://%s:%d (stop with Ctrl-C)", *listener.getsockname()[:2])
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

"""The environment server: runs one episode at a time for an executor or affinetes.

Started as `python -m kinitro.environments.server --host H --port P` with its secret in KINITRO_ENVIRONMENT_SECRET.
"""

import argparse
import asyncio
import base64
import hmac
import json
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import uvicorn
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kinitro.environments.base import (
    Environment,
    EnvironmentOptions,
    EnvironmentSpec,
    Randomisation,
)
from kinitro.environments.episode import EpisodeOutcome, EpisodeRequest, attributed, run_episode
from kinitro.environments.idle import IdleExit
from kinitro.environments.protocol import (
    MAX_ERROR_LENGTH,
    SECRET_VARIABLE,
    EnvironmentLine,
    EnvironmentList,
    EvaluateExtra,
    EvaluateReply,
    EvaluateRequest,
    ServerHealth,
)
from kinitro.environments.simulation import describe
from kinitro.environments.stall import StallMonitor
from kinitro.errors import ConfigurationError, InfrastructureError, KinitroError, PolicyError
from kinitro.logs import configure_logging, get_logger
from kinitro.policy.client import HEALTH_TIMEOUT_S, Endpoint, PolicyClient
from kinitro.policy.messages import PolicyHealth, TaskConfig
from kinitro.schemas import MAX_STEPS_BYTES, Simulation
from kinitro.types import ErrorKind

KEPT_ENVIRONMENTS = 12
"""Room for the eight default environments: one of MetaWorld takes 0.35 s to build, as long as an episode, and 25 MB."""
MAX_REQUEST_BYTES = 64 * 1024
log = get_logger("environment_server")


class RefusedError(Exception):
    """A call that is answered with this HTTP status instead of an episode."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


@dataclass(frozen=True)
class Catalogue:
    """Where a server gets its environments from: the registry, or a test's own."""

    specs: Callable[[], Iterable[EnvironmentSpec]]
    find: Callable[[str], EnvironmentSpec]
    """Raises ConfigurationError for an unknown id."""
    build: Callable[[EnvironmentSpec, EnvironmentOptions], Environment]


@dataclass
class EnvironmentCache:
    """Built environments, the least recently used closed first. With and without images or depth are two."""

    build: Callable[[EnvironmentSpec, EnvironmentOptions], Environment]
    _built: OrderedDict[tuple[str, bool, bool], Environment] = field(default_factory=OrderedDict)

    def get(self, spec: EnvironmentSpec, options: EnvironmentOptions) -> Environment:
        """The environment, built when it is not kept."""
        key = (spec.env_id, options.images, options.depth)
        if key not in self._built:
            while len(self._built) >= KEPT_ENVIRONMENTS:
                self._built.popitem(last=False)[1].close()
            self._built[key] = self.build(spec, options)
        self._built.move_to_end(key)
        return self._built[key]

    def discard(self, env_id: str) -> None:
        """Forgets a broken environment, so that the next episode gets a new one."""
        for key in [key for key in self._built if key[0] == env_id]:
            self._built.pop(key).close()

    def close(self) -> None:
        """Closes them all."""
        while self._built:
            self._built.popitem()[1].close()


@dataclass(frozen=True)
class _Ran:
    """What an episode ran with; nothing when none began."""

    facts: Mapping[str, float | str] = field(default_factory=dict)
    simulation: Simulation | None = None


class EvaluationService:
    """Runs episodes, one at a time."""

    def __init__(
        self, catalogue: Catalogue, secret: str, *, monitor: StallMonitor, randomisation: Randomisation
    ) -> None:
        self._catalogue = catalogue
        self._secret = secret.encode()
        self._monitor = monitor
        self._randomisation = randomisation
        self._environments = EnvironmentCache(catalogue.build)
        self._busy = False
        self._episodes = 0

    def health(self) -> ServerHealth:
        """Whether an episode runs, and how many have ended."""
        return ServerHealth(status="ok", busy=self._busy, episodes=self._episodes)

    def environments(self) -> EnvironmentList:
        """What this server offers."""
        return EnvironmentList(environments=[_line(spec) for spec in self._catalogue.specs()])

    def admit(self, secret: object) -> None:
        """Refuses a caller without the secret."""
        if not isinstance(secret, str) or not hmac.compare_digest(secret.encode(errors="surrogatepass"), self._secret):
            raise RefusedError(f"The secret is missing or wrong: it is the value of {SECRET_VARIABLE}.", 403)

    async def evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        """Runs one episode and says what it came to; whose fault a failure is, is in the reply.

        Raises:
            RefusedError: another episode runs (409), the environment is unknown (404), `base_url` is no address (422).
        """
        if self._busy:
            raise RefusedError("Another episode is running here: one server runs one episode at a time.", 409)
        spec = self._find(request)
        self._busy = True
        started = time.monotonic()
        try:
            outcome, ran = await self._attempt(spec, request)
        finally:
            self._busy = False
            self._episodes += 1
        if outcome.error_kind is ErrorKind.INFRASTRUCTURE:
            self._environments.discard(spec.env_id)
        return _reply(spec, request, outcome, ran, time.monotonic() - started)

    def close(self) -> None:
        """Closes the simulators."""
        self._environments.close()

    def _find(self, request: EvaluateRequest) -> EnvironmentSpec:
        try:
            Endpoint.parse(request.base_url)
        except ConfigurationError as error:
            raise RefusedError(f"base_url: {error}", 422) from error
        try:
            return self._catalogue.find(request.env_id)
        except ConfigurationError as error:
            raise RefusedError(f"env_id: {error}", 404) from error

    async def _attempt(self, spec: EnvironmentSpec, request: EvaluateRequest) -> tuple[EpisodeOutcome, "_Ran"]:
        policy = PolicyClient(request.base_url, authorization=request.authorization)
        try:
            async with policy:
                health = await self._policy_health(policy)
                health_s = policy.last_wait.seconds
                images = request.use_images and health.needs_images
                options = EnvironmentOptions(
                    images=images, depth=images and health.needs_depth, randomisation=self._randomisation
                )
                environment = self._environments.get(spec, options)
                outcome = await run_episode(environment, policy, _episode(spec, request), monitor=self._monitor)
                counted = replace(outcome, policy_seconds=outcome.policy_seconds + health_s)
                return counted, _Ran(environment.facts().values, describe(environment, options))
        except PolicyError as error:
            return _nothing(error.code, error, ErrorKind.POLICY, policy_seconds=policy.last_wait.seconds), _Ran()
        except InfrastructureError as error:
            return _nothing(error.code, error, ErrorKind.INFRASTRUCTURE), _Ran()
        except Exception as error:
            # The outermost turn of this service: a simulator may raise anything.
            log.exception("simulator_failed", env_id=spec.env_id, seed=request.seed)
            return _nothing("simulator_failed", error, ErrorKind.INFRASTRUCTURE), _Ran()

    async def _policy_health(self, policy: PolicyClient) -> PolicyHealth:
        try:
            health = await policy.health()
        except PolicyError as error:
            deadline = policy.last_wait.started + HEALTH_TIMEOUT_S
            raise attributed(error, self._monitor.stall_at_s(deadline)) from error
        if not health.model_loaded:
            raise PolicyError("The policy's /health says that its model is not loaded.", code="unhealthy")
        return health


def _episode(spec: EnvironmentSpec, request: EvaluateRequest) -> EpisodeRequest:
    shown = request.policy_task_id or request.task_id
    task = TaskConfig(spec.env_id, spec.env_name, spec.task_name, request.policy_seed, shown)
    return EpisodeRequest(
        task=task,
        seed=request.seed,
        max_timesteps=request.max_timesteps,
        action_timeout_s=request.action_timeout,
        timeout_s=request.timeout,
    )


def _nothing(code: str, error: Exception, kind: ErrorKind, *, policy_seconds: float = 0.0) -> EpisodeOutcome:
    """The outcome of an episode that did not begin or that the simulator broke off."""
    message = (
        str(error) if isinstance(error, KinitroError) else f"The simulator failed: {type(error).__name__}: {error}"
    )
    return EpisodeOutcome(
        success=False,
        score=0.0,
        total_reward=0.0,
        timesteps=0,
        policy_seconds=policy_seconds,
        mean_action_s=0.0,
        max_action_s=0.0,
        error=message,
        error_kind=kind,
        error_code=code,
    )


def _reply(
    spec: EnvironmentSpec,
    request: EvaluateRequest,
    outcome: EpisodeOutcome,
    ran: _Ran,
    time_taken_s: float,
) -> EvaluateReply:
    kept = outcome.steps.encode() if outcome.steps is not None else b""
    return EvaluateReply(
        task_name=spec.task_name,
        score=outcome.score,
        success=outcome.success,
        time_taken=time_taken_s,
        error=outcome.error[:MAX_ERROR_LENGTH] if outcome.error else None,
        error_kind=outcome.error_kind,
        extra=EvaluateExtra(
            seed=request.seed,
            env_id=spec.env_id,
            timesteps=outcome.timesteps,
            total_reward=outcome.total_reward,
            mean_action_time=outcome.mean_action_s,
            max_action_time=outcome.max_action_s,
            policy_seconds=outcome.policy_seconds,
            trace_digest=outcome.trace_digest,
            error_code=outcome.error_code,
            environment_version=spec.version,
            facts=dict(ran.facts),
            simulation=ran.simulation,
            steps=base64.b64encode(kept).decode() if 0 < len(kept) <= MAX_STEPS_BYTES else None,
        ),
    )


def _line(spec: EnvironmentSpec) -> EnvironmentLine:
    return EnvironmentLine(
        env_id=spec.env_id,
        task_name=spec.task_name,
        version=spec.version,
        needs_images=spec.needs_images,
        default=spec.default,
    )


# HTTP


def build_app(catalogue: Catalogue, secret: str, *, randomisation: Randomisation = Randomisation.STANDARD) -> Starlette:
    """The web application. `secret` must not be empty.

    Raises:
        ConfigurationError: no secret.
    """
    if not secret:
        raise ConfigurationError(
            "The environment server has no secret.", advice=f"Set {SECRET_VARIABLE} to a random text and start again."
        )
    monitor = StallMonitor()
    service = EvaluationService(catalogue, secret, monitor=monitor, randomisation=randomisation)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with monitor:
            try:
                yield
            finally:
                service.close()

    async def health(_request: Request) -> Response:
        return _answer(service.health())

    async def list_environments(_request: Request) -> Response:
        return _answer(service.environments())

    async def evaluate(request: Request) -> Response:
        document = await _read(request)
        service.admit(document.get("secret"))
        return await _while_connected(request, service.evaluate(_checked(document)))

    routes = [
        Route("/health", health, methods=["GET"]),
        Route("/list_environments", list_environments, methods=["POST"]),
        Route("/evaluate", evaluate, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={RefusedError: _refused})


async def _read(request: Request) -> dict[str, object]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            raise RefusedError(f"The body is larger than {MAX_REQUEST_BYTES} bytes.", 413)
    try:
        document = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"The body is not JSON: {error}.", 422) from error
    if not isinstance(document, dict):
        raise RefusedError("The body must be a JSON object.", 422)
    return document


def _checked(document: dict[str, object]) -> EvaluateRequest:
    try:
        return EvaluateRequest.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise RefusedError(problems, 422) from None


async def _while_connected(request: Request, work: Coroutine[object, None, EvaluateReply]) -> Response:
    """Does the work unless the caller goes away first: then nobody wants the episode's result."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return Response(working.result().body(), media_type="application/json")
        return Response(status_code=499)
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(message: BaseModel) -> Response:
    return Response(message.model_dump_json(), media_type="application/json")


def _refused(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RefusedError):
        raise error
    return JSONResponse({"error": error.message}, status_code=error.status)


def registry_catalogue() -> Catalogue:
    """The environments of this installation."""
    from kinitro.environments import registry  # noqa: PLC0415 (tests bring their own catalogue)

    return Catalogue(specs=registry.catalogue, find=registry.find, build=registry.build)


def main() -> None:
    """Serves this installation's environments until told to stop."""
    serve(registry_catalogue())


def serve(catalogue: Catalogue) -> None:
    """Serves these environments until told to stop; the command line and the environment say how."""
    parser = argparse.ArgumentParser(description="Run episodes for an executor.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default %(default)s)")
    parser.add_argument(
        "--randomisation",
        type=Randomisation,
        choices=list(Randomisation),
        default=Randomisation.STANDARD,
        help="how much of the world besides placement is drawn from the seed (default %(default)s)",
    )
    parser.add_argument(
        "--idle-exit",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="end when nothing was asked for so long (default: never)",
    )
    arguments = parser.parse_args()
    configure_logging()
    try:
        app = build_app(catalogue, os.environ.pop(SECRET_VARIABLE, ""), randomisation=arguments.randomisation)
    except ConfigurationError as error:
        parser.exit(1, f"{error}\n")
    config = uvicorn.Config(
        idle := IdleExit(app, arguments.idle_exit),
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        access_log=False,
        ws="none",
        timeout_keep_alive=120,
        timeout_graceful_shutdown=2,
    )
    asyncio.run(_serve(uvicorn.Server(config), idle if arguments.idle_exit else None))


async def _serve(server: uvicorn.Server, idle: IdleExit | None) -> None:
    serving = asyncio.create_task(server.serve())
    if idle is not None:
        expiring = asyncio.create_task(idle.expired())
        await asyncio.wait({serving, expiring}, return_when=asyncio.FIRST_COMPLETED)
        expiring.cancel()
        server.should_exit = True
    await serving


if __name__ == "__main__":
    main()

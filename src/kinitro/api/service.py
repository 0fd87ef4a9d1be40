"""The API as a process: database, socket, server, signals."""

import asyncio
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from kinitro.api.access import AccessRule, is_loopback, refuse_open_door
from kinitro.api.app import build_app
from kinitro.errors import ConfigurationError
from kinitro.logs import get_logger
from kinitro.settings import ApiSettings
from kinitro.storage.database import open_database

_GRACE_S = 10
_IDLE_CONNECTION_S = 75

_log = get_logger("api")


async def serve(settings: ApiSettings) -> None:
    """Serves until SIGINT or SIGTERM, then lets the requests in hand end.

    `ConfigurationError` when the address can't be used or `--no-auth` would open it to others; `DatabaseError` when
    the database can't be.
    """
    with await _listen(settings) as listener:
        address, port = listener.getsockname()[:2]
        async with open_database(settings.database_url) as database:
            server = _Server(_config(build_app(database, settings)))
            _log.info(
                "api_listening",
                url=_url(address, port),
                database=database.url,
                callers=_who_may_call(settings, address),
            )
            await server.serve(sockets=[listener])
    _log.info("api_stopped")


class _Server(uvicorn.Server):
    """Uvicorn raises the signal again after serving, which would end the process before the database is closed.

    A signal that this process ignores, as a script's background commands ignore Ctrl-C, stays ignored.
    """

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        both = (signal.SIGINT, signal.SIGTERM)
        caught = [number for number in both if signal.getsignal(number) is not signal.SIG_IGN]
        for number in caught:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in caught:
                loop.remove_signal_handler(number)


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        # The peer decides who may call; a header must never stand in for it.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_IDLE_CONNECTION_S,
        timeout_graceful_shutdown=_GRACE_S,
    )


async def _listen(settings: ApiSettings) -> socket.socket:
    """A bound and listening socket, so that a wrong address is told before anything is opened."""
    family, address = await _resolve(settings.host, settings.port)
    refuse_open_door(AccessRule(settings.api_key, settings.no_auth), str(address[0]), settings.host)
    # With its protocol: else asyncio leaves Nagle's algorithm on.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"The API can't listen on port {settings.port} of {settings.host}: {error.strerror}.",
            advice="Stop what uses it, or choose another port with --port.",
        ) from None
    listener.setblocking(False)
    return listener


async def _resolve(host: str, port: int) -> tuple[int, tuple[str, int]]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(
            f"--host {host} is not an address of this machine: {cause}.", advice="Use 127.0.0.1 or 0.0.0.0."
        ) from None
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _who_may_call(settings: ApiSettings, address: str) -> str:
    """For the operator: who can lease tasks and submit results."""
    if settings.no_auth:
        return "anyone on this machine (--no-auth)"
    if settings.api_key is not None:
        return "holders of the key"
    alone = "programs on this machine"
    return alone if is_loopback(address) else f"{alone}; set KINITRO_API_API_KEY to let others in"

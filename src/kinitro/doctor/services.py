"""What the API and the scheduler stand on: the database, and the address to listen on."""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from kinitro.doctor.findings import Finding, failed, ok, skipped, warning
from kinitro.doctor.machine import has_extra
from kinitro.doctor.outside import ChainLook, is_kinitro
from kinitro.settings import ApiSettings, home_directory

if TYPE_CHECKING:
    from kinitro.storage import Database

_SHORT_KEY = 16


async def database(url: str | None, look: ChainLook | None = None) -> Sequence[Finding]:
    """The database and its schema; with a `look` also whether it belongs to that subnet of that chain."""
    if not has_extra("server"):
        return [skipped("Database", "the server extra is not installed")]
    if url is None and not (home_directory() / "postgres").exists():
        # Opening it would make it.
        return [failed("Database", f"There is no embedded database in {home_directory()} yet.", _INIT_ADVICE)]
    from kinitro.storage import open_database  # noqa: PLC0415 - optional, and slow to import

    async with open_database(url) as opened:
        await opened.ping()
        found = [ok("Database", f"{opened.url if url else 'embedded'}, its schema is this version's")]
        return found if look is None else [*found, await _ownership(opened, look)]


_INIT_ADVICE = "Make it with `kinitro db init`, or name a PostgreSQL of yours with --database-url."


async def _ownership(opened: "Database", look: ChainLook) -> Finding:
    from kinitro.storage.reads import load_status  # noqa: PLC0415 - optional, and slow to import

    async with opened.connect() as connection:
        status = await load_status(connection)
    if status.netuid is None:
        return ok("Subnet", "the database belongs to none yet; the first scheduler's becomes its own")
    genesis = await look.genesis()
    if genesis is None:
        return skipped("Subnet", "the chain could not be read")
    if (status.netuid, status.genesis) != (look.netuid, genesis):
        text = f"This database is of netuid {status.netuid} on the chain with genesis {status.genesis}."
        advice = "Use another database (--database-url), or correct --netuid and --network."
        return failed("Subnet", text, advice)
    return ok("Subnet", f"the database is of netuid {status.netuid} on this chain")


async def listening(settings: ApiSettings) -> Sequence[Finding]:
    """Whether the API's address is free, or an API of ours has it already, and who may call it."""
    return [await _port(settings), await _who_may_call(settings)]


async def _port(settings: ApiSettings) -> Finding:
    where = f"port {settings.port} of {settings.host}"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        if await is_kinitro(f"http://localhost:{settings.port}"):
            return ok("Port", f"a Kinitro API answers on {where}")
        advice = "Stop what uses it, or choose another with --port and --host."
        return failed("Port", f"The API could not listen on {where}: {error.strerror or error}.", advice)
    return ok("Port", f"{where} is free")


async def _who_may_call(settings: ApiSettings) -> Finding:
    if settings.api_key is not None:
        if len(settings.api_key.get_secret_value()) < _SHORT_KEY:
            return warning("API key", "The key is short enough to be guessed.", _KEY_ADVICE)
        return ok("API key", "executors need the key that is set")
    found = await asyncio.get_running_loop().getaddrinfo(settings.host, None)
    if ip_address(str(found[0][4][0]).partition("%")[0]).is_loopback:
        return ok("API key", "none; only programs on this machine reach the API")
    text = "There is no key, so executors on other machines are refused."
    return warning("API key", text, _KEY_ADVICE)


_KEY_ADVICE = "For executors elsewhere: export KINITRO_API_API_KEY=$(openssl rand -hex 32)"

"""Proof, from inside a container just like a policy's, that it can call nobody."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

PROBE = """
import json, socket, sys, threading, time

TIMEOUT_S = 2.0
reached = []

def connect(host, port):
    try:
        with socket.create_connection((host, port), TIMEOUT_S):
            reached.append(f"{host}:{port}")
    except OSError:
        pass

def resolve(name):
    try:
        socket.getaddrinfo(name, 443)
        reached.append(f"the name {name}")
    except OSError:
        pass

tries = [threading.Thread(target=connect, args=target, daemon=True) for target in json.loads(sys.argv[1])]
tries += [threading.Thread(target=resolve, args=(name,), daemon=True) for name in json.loads(sys.argv[2])]
own = socket.create_server(("127.0.0.1", 0))
tries.append(threading.Thread(target=connect, args=own.getsockname()[:2], daemon=True))
for one in tries:
    one.start()
end = time.monotonic() + TIMEOUT_S + 1.0
for one in tries:
    one.join(max(0.0, end - time.monotonic()))
here = f"127.0.0.1:{own.getsockname()[1]}"
print(json.dumps({"works": here in reached, "reached": [one for one in reached if one != here]}))
"""
_OUTSIDE = (("1.1.1.1", 443), ("8.8.8.8", 53))
_NAMES = ("example.com", "huggingface.co")


@asynccontextmanager
async def listening_host() -> AsyncIterator[int]:
    """A service of this host on all its addresses, as a careless one would be: the port."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "0.0.0.0", 0)  # noqa: S104 - the point of it
    async with server:
        yield server.sockets[0].getsockname()[1]


def host_addresses(gateways: Iterable[str]) -> list[str]:
    """Addresses under which containers might reach this host."""
    found = {*gateways}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; says which address would be used
        found.add(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        found.update(socket.gethostbyname_ex(socket.gethostname())[2])
    return sorted(address for address in found if not address.startswith("127."))


def probe_command(addresses: Iterable[str], port: int) -> list[str]:
    """What to run in the container. Its last line of output is for `problems`."""
    targets = [(address, port) for address in addresses]
    return [
        "env",
        "RES_OPTIONS=timeout:1 attempts:2",
        "python",
        "-I",
        "-c",
        PROBE,
        json.dumps([*targets, *_OUTSIDE]),
        json.dumps(_NAMES),
    ]


def problems(output: str) -> list[str]:
    """What the container reached; empty when it is isolated. An answer that can't be read is a problem too."""
    lines = output.strip().splitlines() or [""]
    try:
        answer = json.loads(lines[-1])
        return list(answer["reached"]) if answer["works"] else ["nothing, not even itself: the probe does not work"]
    except (ValueError, KeyError, TypeError):
        return [f"the probe did not answer: {lines[-1][:300]}"]

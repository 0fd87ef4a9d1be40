"""Proof, from inside a container just like a policy's, that it can call nobody."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kinitro.backends.docker.engine import Engine
from kinitro.errors import InfrastructureError

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
_LISTENER_S = 30.0
_PROBE_S = 60.0
_MAX_ADDRESSES = 64
OUTSIDE = (("1.1.1.1", 443), ("8.8.8.8", 53))
_NAMES = ("example.com", "huggingface.co")

LISTENER = """
import json, os, re, socket

def local_addresses():
    with open("/proc/net/fib_trie") as file:
        found = re.findall(r"\\|-- ([0-9.]+)\\n +/32 host LOCAL", file.read())
    return sorted({one for one in found if not one.startswith("127.")})

server = socket.create_server(("0.0.0.0", 0))
addresses = local_addresses()
for address in addresses[:1]:
    socket.create_connection((address, server.getsockname()[1]), 2.0).close()  # or nobody's failure means anything
facts = {"port": server.getsockname()[1], "addresses": addresses, "cpus": sorted(os.sched_getaffinity(0))}
print(json.dumps(facts), flush=True)
while True:
    server.accept()[0].close()
"""


@dataclass(frozen=True)
class HostFacts:
    """What a container on the host's own network sees of it: where a service on 0.0.0.0 answers, its processors."""

    port: int
    addresses: tuple[str, ...]
    cpus: tuple[int, ...]

    @classmethod
    def read(cls, line: str) -> "HostFacts":
        """From the listener's only line. `InfrastructureError` (`probe`) for anything else."""
        try:
            said = json.loads(line)
            return cls(int(said["port"]), tuple(said["addresses"])[:_MAX_ADDRESSES], tuple(map(int, said["cpus"])))
        except (ValueError, KeyError, TypeError) as error:
            raise InfrastructureError(
                f"The isolation probe's listener did not answer: {line[:300]!r}.", code="probe"
            ) from error


def look_from_inside(
    engine: Engine, image: str, outside: Mapping[str, Any], inside: Mapping[str, Any]
) -> tuple[HostFacts, list[str]]:
    """What the host looks like, and what a container with the options `inside` reaches of it. Blocks.

    `outside` are the options of a container on the host's own network that listens as a careless service would.
    """
    listener = ["python", "-I", "-c", LISTENER]
    with engine.first_line_of(image, listener, _LISTENER_S, network_mode="host", **outside) as line:
        facts = HostFacts.read(line)
        _, output = engine.run_to_end(image, probe_command(facts.addresses, facts.port), _PROBE_S, **inside)
    return facts, problems(output)


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
        json.dumps([*targets, *OUTSIDE]),
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

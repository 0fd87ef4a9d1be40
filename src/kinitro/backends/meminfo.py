"""How much memory a Linux host has left, from its /proc/meminfo."""

import re
from pathlib import Path

from kinitro.backends.base import Memory
from kinitro.errors import InfrastructureError

_FILE = Path("/proc/meminfo")


def read_meminfo() -> Memory:
    """This machine's. `InfrastructureError` (`host_memory`) where there is no such file."""
    try:
        return parse_meminfo(_FILE.read_text())
    except OSError as error:
        raise InfrastructureError(f"This machine's memory can't be read: {error}.", code="host_memory") from error


def parse_meminfo(text: str) -> Memory:
    """What a host's /proc/meminfo says (man 5 proc). `InfrastructureError` (`host_memory`) when it says nothing."""
    found = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB$", text, re.MULTILINE))
    if len(found) != 2:
        raise InfrastructureError(f"{text[:200]!a} does not tell how much memory is left.", code="host_memory")
    return Memory(int(found["MemTotal"]) * 1024, int(found["MemAvailable"]) * 1024)

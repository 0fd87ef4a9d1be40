import pytest

from kinitro.backends.base import Memory
from kinitro.backends.meminfo import parse_meminfo, read_meminfo
from kinitro.errors import InfrastructureError


def test_total_and_available_memory_are_read_in_bytes() -> None:
    text = "MemTotal:       16384000 kB\nMemFree:          123456 kB\nMemAvailable:    8192000 kB\nBuffers: 1 kB\n"
    assert parse_meminfo(text) == Memory(16_384_000 * 1024, 8_192_000 * 1024)


def test_this_machine_has_some() -> None:
    memory = read_meminfo()
    assert 0 < memory.available_bytes <= memory.total_bytes


@pytest.mark.parametrize("text", ["", "MemTotal: 5 kB\n", "ssh: no such command"])
def test_anything_else_is_our_fault(text) -> None:
    with pytest.raises(InfrastructureError, match="how much memory"):
        parse_meminfo(text)

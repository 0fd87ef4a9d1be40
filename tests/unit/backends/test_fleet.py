"""Which Docker host gets a server. The hosts are stand-ins: real ones are in tests/container/test_many_hosts.py."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kinitro.backends.base import LaunchSpec, Memory, Role
from kinitro.backends.docker import DockerFleet, DockerSettings, fleet
from kinitro.errors import InfrastructureError

HERE, THERE = "localhost", "ssh://user@there"
POLICY = LaunchSpec("A policy", Role.POLICY, ("python",), Path("/policy"))


@dataclass
class Host:
    """A stand-in for a host's backend: it starts everything, or nothing."""

    settings: DockerSettings
    is_broken: bool = False
    launched: list[LaunchSpec] = field(default_factory=list)

    @property
    def hosts(self) -> dict[str, int]:
        return {self.settings.host: 2}

    @property
    def policies(self) -> int:
        return len(self.launched)

    async def memory(self, _host: str) -> Memory:
        return Memory(2**34, 2**34)

    async def launch(self, spec: LaunchSpec) -> str:
        if self.is_broken:
            raise InfrastructureError("Its isolation does not hold.", code="isolation")
        self.launched.append(spec)
        return self.settings.host


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> tuple[DockerFleet, dict[str, Host]]:
    hosts: dict[str, Host] = {}

    def make(settings: DockerSettings) -> Host:
        return hosts.setdefault(settings.host, Host(settings))

    monkeypatch.setattr(fleet, "DockerBackend", make)
    settings = [DockerSettings(Path("/state"), "runner", host=host) for host in (HERE, THERE)]
    return DockerFleet(settings, clock), hosts


async def fails(fleet: DockerFleet) -> None:
    with pytest.raises(InfrastructureError):
        await fleet.launch(POLICY)


async def test_a_host_that_can_start_nothing_rests_while_another_works(both, clock) -> None:
    fleet, hosts = both
    hosts[HERE].is_broken = True
    await fails(fleet)
    assert [await fleet.launch(POLICY) for _ in range(4)] == [THERE] * 4
    clock.now = 61.0
    await fails(fleet)
    clock.now = 150.0
    assert await fleet.launch(POLICY) == THERE, "it rests longer each time"
    clock.now = 190.0
    hosts[HERE].is_broken = False
    assert [await fleet.launch(POLICY) for _ in range(2)] == [HERE] * 2


async def test_when_every_host_is_broken_each_is_tried_so_that_the_executor_sees_it(both) -> None:
    fleet, hosts = both
    for host in hosts.values():
        host.is_broken = True
    for _ in range(4):
        await fails(fleet)
    hosts[THERE].is_broken = False
    hosts[HERE].launched.append(POLICY)  # the other is the less busy one
    assert await fleet.launch(POLICY) == THERE

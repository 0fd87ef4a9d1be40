"""Goes on proving that policies are isolated: sentinels, in containers just like theirs, try to get out without end.

A firewall rule that was proved at the start may be gone an hour later: `iptables -F`, a firewall manager's reload, a
restart of the engine. A sentinel that gets any answer, a refusal too, shows it within seconds. There are two, so that
each can try to reach the other as one policy would another.
"""

import asyncio
import contextlib
import functools
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from kinitro.backends.base import LaunchSpec, Limits, Role
from kinitro.backends.docker.container import hardened
from kinitro.backends.docker.engine import Engine
from kinitro.backends.docker.isolation import OUTSIDE
from kinitro.errors import InfrastructureError
from kinitro.logs import get_logger

_log = get_logger("docker")
_LOOK_S = 3.0
_SILENT_S = 30.0
_WAIT_S = 15.0
_PAIR = 2
_PORT = 8000
_CLOSED = 9  # discard: hardly any host serves it, and one that does is found out too
_CODE = "isolation_lost"
ADVICE = (
    "Something changed this host's firewall. See docs/docker.md (Isolation), and `iptables -S INPUT` as root: the rule "
    "of this run must come before any that accepts."
)

SENTINEL = """
import json, socket, sys, threading, time

def listen(address):
    server = socket.create_server((address, int(sys.argv[2])))
    while True:
        server.accept()[0].close()

def knock(host, port, refusal_counts, answered):
    try:
        socket.create_connection((host, port), 2.0).close()
    except ConnectionRefusedError:
        if not refusal_counts:
            return
    except OSError:
        return
    answered.append(f"{host}:{port}")

threading.Thread(target=listen, args=(sys.argv[1],), daemon=True).start()
targets = [tuple(one) for one in json.loads(sys.argv[3])]
here = ("127.0.0.1", 1)  # nobody listens there: it refuses
round = 0
while True:
    answered = []
    tries = [threading.Thread(target=knock, args=(*one, answered), daemon=True) for one in (*targets, (*here, True))]
    for one in tries:
        one.start()
    for one in tries:
        one.join(4.0)
    own = f"{here[0]}:{here[1]}"
    reached = sorted(one for one in answered if one != own)
    print(json.dumps({"round": round, "works": own in answered, "reached": reached}), flush=True)
    round += 1
    time.sleep(1.0)
"""
"""Its address and port, and what it knocks at: host, port, and whether a refusal shows that it got there. This host
refuses where nobody listens; between networks a refusal may be the firewall's own word.
"""

MakeNetwork = Callable[[str], Awaitable[tuple[str, Any, IPv4Network]]]  # Any: the SDK's network


@dataclass(frozen=True)
class _Sentinel:
    name: str
    network: Any  # the SDK's
    address: str
    gateway: str


class IsolationGuard:
    """Watches from `start` to `close`. `on_lost` is called with an error whenever a sentinel got an answer.

    `repair` puts back what keeps policies off the host. `labels` are those of everything of this run.
    """

    def __init__(
        self,
        engine: Engine,
        image: str,
        labels: Mapping[str, str],
        *,
        make_network: MakeNetwork,
        repair: Callable[[], Awaitable[None]],
        on_lost: Callable[[InfrastructureError], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._image = image
        self._labels = labels
        self._make_network = make_network
        self._repair = repair
        self._on_lost = on_lost
        self._addresses: tuple[str, ...] = ()
        self._sentinels: list[_Sentinel] = []
        self._rounds: dict[str, int] = {}
        self._news = 0.0
        self._holds = asyncio.Event()
        self._error = _unproved("no sentinel has reported yet")
        self._trouble = ""
        self._watching: asyncio.Task[None] | None = None

    async def start(self, addresses: Sequence[str]) -> None:
        """Posts the sentinels and begins to watch, when it has just been proved. `addresses` are the host's own."""
        self._addresses = tuple(addresses)
        await self._post()
        self._holds.set()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stops watching; the sentinels go with the run."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def holding(self) -> None:
        """Returns once the isolation is proved; raises why it is not when that takes long (`isolation_lost`)."""
        if self._watching is None or self._watching.done():
            raise _unproved("nobody watches any more")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WAIT_S):
                await self._holds.wait()
                return
        raise InfrastructureError(self._error.message, code=self._error.code, advice=self._error.advice)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._look()
            except InfrastructureError as error:  # the engine is away, or a sentinel is gone or silent
                await self._lose_sight(error)

    async def _look(self) -> None:
        if len(self._sentinels) < _PAIR:
            raise _unproved("no sentinels could be posted")
        looks = {one.name: functools.partial(self._read, one.name) for one in self._sentinels}
        said = {name: await self._engine.do("A sentinel", look) for name, look in looks.items()}
        rounds = {name: int(answer.get("round", -1)) for name, answer in said.items()}
        now = asyncio.get_running_loop().time()
        if reached := sorted({one for answer in said.values() for one in answer.get("reached", ())}):
            await self._lose(reached)
            # What they say next must be of a round that began after the repair.
            self._rounds, self._news = {name: count + 1 for name, count in rounds.items()}, now
        elif all(said[name].get("works") and rounds[name] > self._rounds.get(name, -1) for name in said):
            self._rounds, self._news = rounds, now
            self._regain()
        elif now - self._news > _SILENT_S:
            raise _unproved(f"the sentinels have said nothing for {_SILENT_S:g} s")

    def _read(self, name: str) -> dict[str, Any]:
        container = self._engine.client.containers.get(name)
        if container.status != "running":
            raise _unproved("a sentinel has ended")
        lines = container.logs(tail=1).decode(errors="replace").strip()
        with contextlib.suppress(ValueError):
            answer = json.loads(lines)
            return answer if isinstance(answer, dict) else {}
        return {}

    def _regain(self) -> None:
        if not self._holds.is_set():
            self._holds.set()
            _log.info("isolation_holds", sentinels=len(self._sentinels))

    async def _lose(self, reached: Sequence[str]) -> None:
        """Nothing of a policy may go on running; then puts back what is missing and waits for better news."""
        before, was_held = self._error.message, self._holds.is_set()
        self._holds.clear()
        self._error = InfrastructureError(
            f"Policies are no longer isolated on this Docker host: a container reached {', '.join(reached)}.",
            code=_CODE,
            advice=ADVICE,
        )
        if was_held or before != self._error.message:  # once, not at every look
            _log.error("isolation_lost", reached=list(reached), advice=ADVICE)
        await self._on_lost(self._error)
        await self._mend()

    async def _lose_sight(self, error: InfrastructureError) -> None:
        if self._holds.is_set():
            self._holds.clear()
            _log.warning("isolation_unproved", reason=error.message)
        self._error = _unproved(error.message) if error.code != _CODE else error
        await self._mend()
        with contextlib.suppress(InfrastructureError):
            await self._post()

    async def _mend(self) -> None:
        trouble = ""
        try:
            await self._repair()
        except InfrastructureError as error:
            trouble = str(error)
        if trouble and trouble != self._trouble:  # once, not at every look
            _log.error("isolation_not_repaired", error=trouble)
        self._trouble = trouble

    # Sentinels

    async def _post(self) -> None:
        await self._remove()
        made = await asyncio.gather(*(self._make_network("sentinel") for _ in range(_PAIR)))
        self._sentinels = [_Sentinel(name, network, str(net[2]), str(net[1])) for name, network, net in made]
        starts = [functools.partial(self._start, one) for one in self._sentinels]
        await asyncio.gather(*(self._engine.do("A sentinel", start) for start in starts))
        self._rounds, self._news = {}, asyncio.get_running_loop().time()

    async def _remove(self) -> None:
        while self._sentinels:
            await self._engine.do("A sentinel", functools.partial(_remove, self._engine, self._sentinels[-1]))
            self._sentinels.pop()

    def _start(self, sentinel: _Sentinel) -> None:
        others = [one.address for one in self._sentinels if one is not sentinel]
        targets = [(host, _CLOSED, True) for host in (sentinel.gateway, *self._addresses)]
        targets += [(host, port, False) for host, port in (*OUTSIDE, *((other, _PORT) for other in others))]
        limits = Limits(memory_bytes=128 * 2**20, cpus=0.2, processes=256)
        options = hardened(LaunchSpec("A sentinel", Role.POLICY, (), Path("/"), limits=limits), {})
        container = self._engine.client.containers.create(
            self._image,
            command=["python", "-I", "-c", SENTINEL, sentinel.address, str(_PORT), json.dumps(targets)],
            name=sentinel.name,
            labels=dict(self._labels),
            network=sentinel.name,
            networking_config={
                sentinel.name: self._engine.client.api.create_endpoint_config(ipv4_address=sentinel.address)
            },
            working_dir="/",
            **options,
        )
        container.start()


def _remove(engine: Engine, sentinel: _Sentinel) -> None:
    from docker.errors import NotFound

    with contextlib.suppress(NotFound):
        engine.client.containers.get(sentinel.name).remove(force=True)
    engine.remove_network(sentinel.network.id)


def _unproved(reason: str) -> InfrastructureError:
    return InfrastructureError(
        f"It is not proved that policies are isolated on this Docker host: {reason}.",
        code=_CODE,
        advice="Does the engine run? Is this machine overloaded? See `docker ps`.",
    )

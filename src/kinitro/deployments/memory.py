"""How much memory the hosts have left for policy servers: limits are caps, and all of them together may exceed it."""

from kinitro.backends.base import Backend
from kinitro.errors import InfrastructureError

_LEAST_SHARE = 0.1


class HostMemory:
    """Looks at the hosts of a backend. A host whose memory can't be read counts as one with enough."""

    def __init__(self, backend: Backend, wanted_bytes: int | None) -> None:
        self._backend = backend
        self._wanted_bytes = wanted_bytes or 0

    async def fits(self) -> bool:
        """Whether some host could give a new server all that it may take."""
        return any([await self._left(host, self._wanted_bytes) for host in self._backend.hosts])

    async def short(self) -> list[str]:
        """The hosts with less than a tenth of their memory left: the kernel may soon kill whatever it likes."""
        return [host for host in self._backend.hosts if not await self._left(host, 0)]

    async def _left(self, host: str, wanted_bytes: int) -> bool:
        try:
            memory = await self._backend.memory(host)
        except InfrastructureError:
            return True
        return memory.available_bytes >= max(wanted_bytes, _LEAST_SHARE * memory.total_bytes)

"""Closed cycles as files. Making one is the API's only heavy work: one at a time, and the last are kept."""

import asyncio
from collections import OrderedDict

from kinitro.storage.database import Database
from kinitro.storage.export import load_export

_KEPT = 4  # validators that ask for different cycles must not make each other wait; a large file has some 50 MB


class ExportFiles:
    """Gives the JSON of closed cycles. A closed cycle never changes, so a file made once stays right."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._one_at_a_time = asyncio.Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()  # the least recently asked for first

    async def get(self, cycle_id: int) -> bytes:
        """The file of a cycle that the caller knows to be closed."""
        if cycle_id not in self._kept:
            async with self._one_at_a_time:
                if cycle_id not in self._kept:  # who held the lock may have made it
                    return self._keep(cycle_id, await self._make(cycle_id))
        return self._keep(cycle_id, self._kept[cycle_id])

    def _keep(self, cycle_id: int, file: bytes) -> bytes:
        self._kept[cycle_id] = file
        self._kept.move_to_end(cycle_id)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return file

    async def _make(self, cycle_id: int) -> bytes:
        async with self._database.connect() as connection:
            export = await load_export(connection, cycle_id)
        return (await asyncio.to_thread(export.model_dump_json, indent=None)).encode()

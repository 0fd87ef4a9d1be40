"""Closed cycles as files. Making one is the API's only heavy work, so it is done one at a time and the last is kept."""

import asyncio

from kinitro.storage.database import Database
from kinitro.storage.export import load_export


class ExportFiles:
    """Gives the JSON of closed cycles. A closed cycle never changes, so a file made once stays right."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._one_at_a_time = asyncio.Lock()
        self._latest: tuple[int, bytes] | None = None

    async def get(self, cycle_id: int) -> bytes:
        """The file of a cycle that the caller knows to be closed."""
        async with self._one_at_a_time:
            if self._latest is None or self._latest[0] != cycle_id:
                self._latest = (cycle_id, await self._make(cycle_id))
            return self._latest[1]

    async def _make(self, cycle_id: int) -> bytes:
        async with self._database.connect() as connection:
            export = await load_export(connection, cycle_id)
        return (await asyncio.to_thread(export.model_dump_json, indent=None)).encode()

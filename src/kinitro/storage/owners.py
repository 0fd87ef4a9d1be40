"""Whose policy a revision is, by the `kinitro.json` in it. A revision never changes, so an answer is for ever."""

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.storage import tables as t
from kinitro.types import PolicyRef


async def known_owners(connection: AsyncConnection) -> dict[tuple[str, str], str | None]:
    """Every answer so far: (lower-case repo, revision) to the hotkey, or None where the revision names none."""
    return {(row.repo_key, row.revision): row.hotkey for row in await connection.execute(sa.select(t.owners))}


async def record_owners(connection: AsyncConnection, owners: Mapping[PolicyRef, str | None]) -> None:
    """Remembers answers of the hub."""
    if owners:
        await connection.execute(
            insert(t.owners).on_conflict_do_nothing(),
            [
                {"repo_key": ref.repo.lower(), "revision": ref.revision, "hotkey": hotkey}
                for ref, hotkey in owners.items()
            ],
        )

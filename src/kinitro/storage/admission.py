"""Who may take part: whose policy a revision is, and which commitments were turned away at the latest look.

Each function works inside the caller's transaction, on the connection that holds the scheduler's lock.
"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.storage import tables as t
from kinitro.storage.cycles import MinerEntry
from kinitro.types import PolicyRef


async def known_owners(connection: AsyncConnection) -> dict[tuple[str, str], str | None]:
    """Every answer so far: (lower-case repo, revision) to the hotkey, or None where the revision names none.

    A revision never changes, so an answer is for ever.
    """
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


async def replace_turned_away(connection: AsyncConnection, miners: Sequence[MinerEntry]) -> None:
    """Shows these, and only these, as turned away, whether or not a cycle follows."""
    await connection.execute(sa.delete(t.turned_away))
    if miners:
        await connection.execute(
            sa.insert(t.turned_away),
            [
                {
                    "uid": miner.uid,
                    "hotkey": miner.hotkey,
                    "repo": miner.ref.repo if miner.ref else None,
                    "revision": miner.ref.revision if miner.ref else None,
                    "state": miner.state,
                    "reason": miner.reason,
                }
                for miner in miners
            ],
        )

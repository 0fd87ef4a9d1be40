"""The line of challengers: who was first seen when with which policy, and the serial numbers given (decision 4).

Each function works inside the caller's transaction, on the connection that holds the scheduler's lock.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.storage import tables as t
from kinitro.types import PolicyRef


@dataclass(frozen=True)
class Sighting:
    """A hotkey seen with a readable commitment."""

    uid: int
    hotkey: str
    ref: PolicyRef
    block: int


@dataclass(frozen=True)
class Submission:
    """A (hotkey, repo, revision) as remembered: when it was first seen, and its place once it has one."""

    id: int
    hotkey: str
    ref: PolicyRef
    first_seen_block: int
    first_seen_uid: int
    place: int | None


async def record_sightings(connection: AsyncConnection, sightings: Sequence[Sighting]) -> dict[str, Submission]:
    """Remembers new (hotkey, repo, revision) at their first block; returns each hotkey's present submission.

    A recommit of the same text moves its block on chain; the earliest block we saw stays.
    """
    if not sightings:
        return {}
    await connection.execute(
        insert(t.submissions).on_conflict_do_nothing(constraint="uq_submissions_policy"),
        [
            {
                "hotkey": seen.hotkey,
                "repo": seen.ref.repo,
                "repo_key": seen.ref.repo.lower(),
                "revision": seen.ref.revision,
                "first_seen_block": seen.block,
                "first_seen_uid": seen.uid,
            }
            for seen in sightings
        ],
    )
    wanted = {(seen.hotkey, seen.ref.repo.lower(), seen.ref.revision) for seen in sightings}
    query = (
        sa.select(t.submissions, t.places.c.place)
        .outerjoin(t.places, t.places.c.submission_id == t.submissions.c.id)
        .where(t.submissions.c.hotkey.in_([seen.hotkey for seen in sightings]))
    )
    return {
        row.hotkey: Submission(
            row.id,
            row.hotkey,
            PolicyRef(row.repo, row.revision),
            row.first_seen_block,
            row.first_seen_uid,
            row.place,
        )
        for row in await connection.execute(query)
        if (row.hotkey, row.repo_key, row.revision) in wanted
    }


async def first_blocks(connection: AsyncConnection, cycle_id: int) -> dict[int, int]:
    """The block at which each of a cycle's miners was first seen with its policy, by uid."""
    query = (
        sa.select(t.cycle_miners.c.uid, t.submissions.c.first_seen_block)
        .join(t.submissions, t.submissions.c.id == t.cycle_miners.c.submission_id)
        .where(t.cycle_miners.c.cycle_id == cycle_id)
    )
    return {row.uid: row.first_seen_block for row in await connection.execute(query)}


async def give_places(connection: AsyncConnection, submission_ids: Sequence[int]) -> dict[int, int]:
    """Gives the next serial numbers to submissions that have none, in the order given; returns all their places."""
    known = {
        row.submission_id: row.place
        for row in await connection.execute(
            sa.select(t.places).where(t.places.c.submission_id.in_(list(submission_ids)))
        )
    }
    latest = await connection.scalar(sa.select(sa.func.coalesce(sa.func.max(t.places.c.place), 0))) or 0
    fresh = [
        {"place": latest + offset, "submission_id": submission_id}
        for offset, submission_id in enumerate((i for i in submission_ids if i not in known), start=1)
    ]
    if fresh:
        await connection.execute(sa.insert(t.places), fresh)
    return known | {row["submission_id"]: row["place"] for row in fresh}

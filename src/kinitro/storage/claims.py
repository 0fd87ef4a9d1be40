"""What executors say policies' files are. Whom to believe is the scheduler's to decide (docs/decisions/0026)."""

from collections import defaultdict
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.storage import tables as t


@dataclass(frozen=True, order=True)
class FileClaim:
    """One executor's word on the files that a miner's policy holds. Who says two things makes two claims."""

    uid: int
    executor_id: str
    tree_digest: str


async def file_claims(connection: AsyncConnection, cycle_id: int) -> list[FileClaim]:
    """What was said in one cycle, in verdicts and in runs of audits, but by those whose word was withdrawn."""
    query = sa.select(*_CLAIM).where(t.file_claims.c.cycle_id == cycle_id)
    return [FileClaim(*row) for row in await connection.execute(query)]


async def latest_claims(connection: AsyncConnection) -> dict[tuple[str, str], list[FileClaim]]:
    """What was said of each (lower-case repo, revision) in the last cycle in which anything was."""
    latest = sa.func.max(t.file_claims.c.cycle_id).over(partition_by=_POLICY)
    ranked = sa.select(t.file_claims, latest.label("latest")).subquery()
    claims: defaultdict[tuple[str, str], list[FileClaim]] = defaultdict(list)
    for row in await connection.execute(sa.select(ranked).where(ranked.c.cycle_id == ranked.c.latest)):
        claims[row.repo_key, row.revision].append(FileClaim(row.uid, row.executor_id, row.tree_digest))
    return dict(claims)


async def forget_claims(connection: AsyncConnection) -> None:
    """Forgets what `latest_claims` does not give. Between cycles only."""
    await connection.execute(_FORGET)


async def executors_to_ask(connection: AsyncConnection) -> set[str]:
    """Those heard of within a day and not quarantined: whose word could be had, now or soon."""
    return set(await connection.scalars(_TO_ASK))


_CLAIM = (t.file_claims.c.uid, t.file_claims.c.executor_id, t.file_claims.c.tree_digest)
_POLICY = (t.file_claims.c.repo_key, t.file_claims.c.revision)

_FORGET = text("""
    delete from file_claims c where exists (
        select 1 from file_claims later
        where later.repo_key = c.repo_key and later.revision = c.revision and later.cycle_id > c.cycle_id)
""")

_TO_ASK = text("""
    select e.executor_id from executors e
    where e.last_seen_at > clock_timestamp() - interval '1 day'
      and not exists (select 1 from quarantines q
                      where q.executor_id = e.executor_id and q.lifted_at is null and q.hotkey is null)
""")

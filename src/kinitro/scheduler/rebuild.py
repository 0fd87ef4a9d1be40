"""Evidence is a digest of verdicts; here it is made anew from them."""

from dataclasses import dataclass

from kinitro.scoring import pack_outcomes
from kinitro.storage import completed_cycles, load_export, open_database, replace_bits


@dataclass(frozen=True)
class RebuildReport:
    """`corrected` counts rows that differed from what the verdicts say."""

    cycles: int
    rows: int
    corrected: int


async def rebuild_evidence(database_url: str | None) -> RebuildReport:
    """Replaces the packed outcomes of every completed cycle, each in one transaction."""
    rows = corrected = 0
    async with open_database(database_url) as database:
        async with database.begin() as connection:
            cycles = await completed_cycles(connection)
        for cycle_id in cycles:
            async with database.begin() as connection:
                bits = pack_outcomes(await load_export(connection, cycle_id))
                corrected += await replace_bits(connection, cycle_id, bits)
                rows += len(bits)
    return RebuildReport(len(cycles), rows, corrected)

"""`kinitro executors` on a real database."""

import asyncio
import json

import pytest
from typer.testing import CliRunner, Result

from kinitro.cli.app import app
from kinitro.errors import ConfigurationError
from kinitro.storage import quarantine
from kinitro.storage.tables import cycles, executors

CYCLE = {
    "status": "running", "block_number": 1, "netuid": 1, "genesis": "0x00", "salt": bytes(32), "salt_sha256": "00",
    "target_block": 4, "episodes_per_env": 1, "environments": [], "rule": {}, "miner_time_budget_s": 1.0,
    "timeout_s": 1.0, "task_max_attempts": 1, "n_miners": 0,
}  # fmt: skip


@pytest.fixture
async def quarantined(database) -> None:
    """`gpu-box` gets nothing of one miner, `other` is free, and `long-gone` is quarantined and was not heard of."""
    async with database.begin() as connection:
        await connection.execute(cycles.insert().values(**CYCLE))
        await connection.execute(executors.insert(), [{"executor_id": "gpu-box"}, {"executor_id": "other"}])
        await quarantine(connection, 1, "gpu-box", "5Hotkey", "a and b contradicted it on a/b of uid 3.")
        await quarantine(connection, 1, "long-gone", None, "others contradicted it over 10 miners.")


async def kinitro(*arguments: str, url: str) -> Result:
    def run() -> Result:
        return CliRunner().invoke(app, [*arguments, "--database-url", url], catch_exceptions=True)

    return await asyncio.to_thread(run)


async def test_the_list_says_who_is_kept_from_what_and_why(quarantined, database_url) -> None:
    listed = json.loads((await kinitro("executors", "list", "--json", url=database_url)).stdout)
    kept = {one["executor_id"]: [(entry["hotkey"], entry["reason"]) for entry in one["quarantines"]] for one in listed}
    assert kept == {
        "gpu-box": [("5Hotkey", "a and b contradicted it on a/b of uid 3.")],
        "long-gone": [(None, "others contradicted it over 10 miners.")],
        "other": [],
    }
    shown = (await kinitro("executors", "list", url=database_url)).stdout
    assert "3 executors" in shown
    assert "not for a day" in shown


async def test_a_pardon_lifts_it_and_a_second_one_says_that_there_is_nothing_to_lift(quarantined, database_url) -> None:
    pardoned = await kinitro("executors", "pardon", "gpu-box", url=database_url)
    assert (pardoned.exit_code, pardoned.stdout.startswith("gpu-box gets tasks again")) == (0, True)
    again = await kinitro("executors", "pardon", "gpu-box", url=database_url)
    assert isinstance(again.exception, ConfigurationError)
    assert "gpu-box is not quarantined. See who is: `kinitro executors list`." in str(again.exception)

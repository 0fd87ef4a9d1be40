"""The schema tells the truth: schemathesis makes requests from it, right and wrong ones, and checks each answer."""

import asyncio
import sys
from pathlib import Path

import pytest

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.timeout(300)
async def test_every_answer_is_one_that_the_schema_promises(world, database_url, start_api, tmp_path: Path) -> None:
    await world.finished_cycle()
    await world.plan(revision="2")
    async with start_api(database_url) as api:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{api.url}/openapi.json",
            *("--checks", CHECKS),
            *("--phases", "examples,coverage,fuzzing"),
            *("--max-examples", "15"),
            "--generation-deterministic",
            "--no-color",
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()

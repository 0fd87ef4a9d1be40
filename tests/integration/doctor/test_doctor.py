"""Every prerequisite, present and missing for real. Docker mode's are in tests/container, a true chain's beside it."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from kinitro.client import KinitroClient
from kinitro.doctor.examine import _look
from kinitro.doctor.findings import Check, Verdict
from kinitro.doctor.machine import room_finding
from kinitro.doctor.outside import clock
from kinitro.storage import cycles

from .conftest import NOT_OURS, server_that_says

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[str]:
    """A running API with a key."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    variables = {"KINITRO_API_DATABASE_URL": database_url, "KINITRO_API_API_KEY": "k" * 32, "HOME": str(tmp_path)}
    with (tmp_path / "api.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "kinitro", "api", "--port", str(port)], env=clean | variables, stdout=log, stderr=log
        )
    try:
        url = f"http://localhost:{port}"
        for _ in range(300):
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                subprocess.run(["sleep", "0.1"], check=True)
        yield url
    finally:
        process.terminate()
        process.wait(20)


# A newcomer


async def test_a_machine_on_which_nothing_is_configured_looks_healthy_and_stays_as_it_was(run, home: Path) -> None:
    visit = await run("doctor")
    assert visit.code == 0, visit.stdout
    assert "ok       Python " in visit.stdout
    assert "Nothing is configured for miner, executor, scheduler, api, validator" in visit.stdout
    assert visit.stdout.splitlines()[-1].startswith("Healthy")
    assert not home.exists()  # noqa: ASYNC240 - a moment


async def test_looking_at_every_role_makes_nothing_either(doctor, home: Path) -> None:
    roles = [word for role in ("miner", "scheduler", "api", "validator") for word in ("--role", role)]
    visit = await doctor(*roles, "--network", "dev", "--netuid", "1")
    assert visit.code == 1
    assert visit.said("scheduler", "Database").startswith("There is no embedded database")
    assert "kinitro db init" in visit.said("scheduler", "Database")
    assert visit.said("scheduler", "Chain").startswith("There is no dev ledger")
    assert not home.exists()  # noqa: ASYNC240 - a moment


async def test_only_the_roles_that_something_is_configured_for_are_looked_at(doctor, database_url) -> None:
    visit = await doctor("--database-url", database_url, KINITRO_SCHEDULER_NETWORK="dev")
    assert {role for role, _ in visit.findings} == {"machine", "scheduler", "api"}
    visit = await doctor(BT_WALLET="me", BT_NETWORK="dev")
    assert {role for role, _ in visit.findings} == {"machine", "miner"}


async def test_a_whole_development_setup_is_healthy(run, doctor, hub_url: str) -> None:
    for command in (("db", "init"), ("demo", "--setup-only")):
        assert (await run(*command)).code == 0
    roles = ("--role", "scheduler", "--role", "api", "--role", "miner")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    visit = await doctor(
        *roles, "--network", "dev", "--netuid", "1", HF_ENDPOINT=hub_url, HF_TOKEN="hf_mine", KINITRO_API_PORT=str(port)
    )
    assert visit.code == 0, visit.stdout
    assert {one["verdict"] for one in visit.findings.values()} <= {"ok", "warning", "skipped"}
    assert visit.verdict("scheduler", "Database") == "ok"
    assert "netuid 1 has 5 neurons" in visit.said("scheduler", "Chain")
    assert visit.said("miner", "Hub").startswith(f"{hub_url} answers and knows the token of HF_TOKEN")


# Database


async def test_a_database_that_nothing_serves_is_named(doctor) -> None:
    visit = await doctor("--role", "api", "--database-url", "postgresql://me:secret@127.0.0.1:9/kinitro")
    assert visit.code == 1
    assert visit.verdict("api", "Database") == "failed"
    assert "nothing listens at 127.0.0.1:9" in visit.said("api", "Database")
    assert "secret" not in visit.stdout


async def test_a_url_that_is_none_is_said(doctor) -> None:
    visit = await doctor("--role", "scheduler", "--database-url", "mysql://here/db", "--network", "dev")
    assert "only PostgreSQL is supported" in visit.said("scheduler", "Database")


async def test_a_database_without_tables_names_the_command(doctor, empty_database_url: str) -> None:
    visit = await doctor("--role", "api", "--database-url", empty_database_url)
    assert visit.verdict("api", "Database") == "failed"
    assert "kinitro db init --database-url" in visit.said("api", "Database")


async def test_a_database_of_another_subnet_is_no_use_to_this_scheduler(run, doctor, database, database_url) -> None:
    assert (await run("demo", "--setup-only")).code == 0
    async with database.begin() as connection:
        await cycles.claim_ledger(connection, "0x" + "ab" * 32, 7)
    visit = await doctor("--role", "scheduler", "--database-url", database_url, "--network", "dev", "--netuid", "1")
    assert visit.verdict("scheduler", "Database") == "ok"
    assert visit.verdict("scheduler", "Subnet") == "failed"
    assert "is of netuid 7" in visit.said("scheduler", "Subnet")


# Chain and wallet


async def test_a_chain_that_can_not_be_reached_is_named(doctor, database_url: str) -> None:
    flags = ("--database-url", database_url, "--network", "ws://127.0.0.1:9", "--netuid", "2")
    visit = await doctor("--role", "scheduler", *flags)
    assert visit.code == 1
    assert visit.verdict("scheduler", "Chain") == "failed"
    assert "ws://127.0.0.1:9" in visit.said("scheduler", "Chain")


async def test_a_subnet_that_is_not_there_and_a_network_that_is_none(run, doctor) -> None:
    assert (await run("demo", "--setup-only")).code == 0
    visit = await doctor("--role", "miner", "--network", "dev", "--netuid", "99")
    assert "no subnet 99" in visit.said("miner", "Chain")
    assert "no network called" in (await doctor("--role", "miner", "--network", "mars")).said("miner", "Chain")


async def test_a_wallet_that_is_missing_is_said_and_the_chain_is_looked_at_all_the_same(run, doctor, tmp_path) -> None:
    visit = await doctor("--role", "miner", "--network", "ws://127.0.0.1:9", "--wallet-name", "bob")
    assert "There is no wallet 'bob'" in visit.said("miner", "Wallet")
    assert visit.verdict("miner", "Chain") == "failed"


# Hub


async def test_a_bad_token_is_told_from_a_hub_that_is_away(doctor, hub_url: str) -> None:
    executor = ("--role", "executor", "--eval-mode", "process", "--api-url", NOBODY)
    bad = await doctor(*executor, HF_ENDPOINT=hub_url, KINITRO_EXECUTOR_MINER_HF_TOKEN="hf_wrong")
    assert bad.verdict("executor", "Hub") == "failed"
    assert "does not accept the token of KINITRO_EXECUTOR_MINER_HF_TOKEN" in bad.said("executor", "Hub")
    assert "hf_wrong" not in bad.stdout
    good = await doctor(*executor, HF_ENDPOINT=hub_url, KINITRO_EXECUTOR_MINER_HF_TOKEN="hf_mine")
    assert good.verdict("executor", "Hub") == "ok"
    away = await doctor(*executor, HF_ENDPOINT=NOBODY)
    assert "can't be reached" in away.said("executor", "Hub")


async def test_a_miner_without_a_token_is_told_where_to_get_one_and_nothing_fails(doctor, hub_url: str) -> None:
    visit = await doctor("--role", "miner", "--network", "dev", HF_ENDPOINT=hub_url)
    assert visit.verdict("miner", "Hub token") == "warning"
    assert "export HF_TOKEN" in visit.said("miner", "Hub token")


# API


async def test_an_api_that_is_away_is_named_for_each_who_needs_it(doctor) -> None:
    visit = await doctor(
        "--role", "executor", "--role", "validator", "--eval-mode", "process", "--network", "dev",
        "--api-url", NOBODY, "--backend-url", NOBODY,
    )  # fmt: skip
    assert "can't be reached" in visit.said("executor", "API")
    assert "(--api-url or KINITRO_EXECUTOR_API_URL)" in visit.said("executor", "API")
    assert "can't be reached" in visit.said("validator", "Backend")
    assert "(--backend-url or KINITRO_VALIDATOR_BACKEND_URL)" in visit.said("validator", "Backend")
    assert visit.verdict("executor", "Clock") == "skipped"


async def test_a_wrong_key_is_found_without_a_trace_of_us_in_the_api(doctor, api: str, home: Path) -> None:
    executor = ("--role", "executor", "--eval-mode", "process", "--api-url", api)
    wrong = await doctor(*executor, KINITRO_EXECUTOR_API_KEY="wrong")
    assert wrong.verdict("executor", "API") == "ok"
    assert wrong.verdict("executor", "API key") == "failed"
    assert "KINITRO_EXECUTOR_API_KEY" in wrong.said("executor", "API key")
    right = await doctor(*executor, KINITRO_EXECUTOR_API_KEY="k" * 32)
    assert right.verdict("executor", "API key") == "ok"
    assert right.verdict("executor", "Clock") == "ok"
    async with KinitroClient(api) as client:
        assert (await client.stats()).active_executors == []


async def test_a_backend_of_another_subnet_is_found_before_a_validator_starts(run, doctor, api, database) -> None:
    assert (await run("demo", "--setup-only")).code == 0
    validator = ("--role", "validator", "--network", "dev", "--netuid", "1", "--backend-url", api)
    assert (await doctor(*validator)).verdict("validator", "Weights") == "warning"
    async with database.begin() as connection:
        await cycles.claim_ledger(connection, "0x" + "ab" * 32, 7)
    assert "The backend evaluates netuid 7" in (await doctor(*validator)).said("validator", "Subnet")


async def test_a_port_in_use_is_told_from_our_own_api(doctor, api: str, database_url: str) -> None:
    port = api.rsplit(":", 1)[1]
    ours = await doctor("--role", "api", "--database-url", database_url, KINITRO_API_PORT=port)
    assert "a Kinitro API answers" in ours.said("api", "Port")
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        visit = await doctor("--role", "api", "--database-url", database_url, KINITRO_API_PORT=taken)
    assert visit.verdict("api", "Port") == "failed"


async def test_a_public_bind_without_a_key_is_worth_a_warning(doctor, database_url: str) -> None:
    flags = ("--role", "api", "--database-url", database_url)
    assert (await doctor(*flags, KINITRO_API_HOST="0.0.0.0")).verdict("api", "API key") == "warning"
    assert (await doctor(*flags)).verdict("api", "API key") == "ok"


# Docker without an engine, Basilica


async def test_without_an_engine_the_executor_reads_how_to_get_one_and_the_rest_is_skipped(run) -> None:
    engine = "unix:///nowhere/docker.sock"
    visit = await run("doctor", "--json", "--role", "executor", "--api-url", NOBODY, DOCKER_HOST=engine)
    assert visit.code == 1
    assert visit.said("executor", "Docker").startswith("No Docker engine answers")
    assert "usermod -aG docker" in visit.said("executor", "Docker")
    assert visit.verdict("executor", "Images") == visit.verdict("executor", "Isolation") == "skipped"
    assert visit.verdict("machine", "Docker") == "skipped", "nobody else needs one"


async def test_basilica_mode_needs_a_token_that_the_service_knows(doctor) -> None:
    executor = ("--role", "executor", "--eval-mode", "basilica", "--api-url", NOBODY)
    assert "has no token" in (await doctor(*executor)).said("executor", "Basilica")
    away = await doctor(*executor, BASILICA_API_TOKEN="basilica_secret1", BASILICA_API_URL=NOBODY)
    assert "can't be reached" in away.said("executor", "Basilica")
    assert "basilica_secret1" not in away.stdout


async def test_a_token_for_basilica_in_the_env_file_counts_as_it_does_for_the_executor(doctor, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("KINITRO_EXECUTOR_MINER_BASILICA_API_TOKEN=basilica_secret1\n")
    visit = await doctor("--role", "executor", "--eval-mode", "basilica", "--api-url", NOBODY)
    assert visit.verdict("executor", "Basilica") == "ok"
    assert "a token is set" in visit.said("executor", "Basilica")


async def test_basilica_mode_needs_basilicas_sdk_and_no_docker(doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("basilica", "docker") else True)
    visit = await doctor("--role", "executor", "--eval-mode", "basilica", "--api-url", NOBODY)
    assert "The extra basilica is not installed." in visit.said("executor", "Packages")
    assert "pip install '.[basilica]'" in visit.said("executor", "Packages")


# Clock, disk, deadlines


@pytest.mark.parametrize(
    ("ahead_s", "verdict", "words"),
    [
        (0, Verdict.OK, "agrees with 127.0.0.1"),
        (-60, Verdict.WARNING, "60 s ahead of"),
        (3600, Verdict.FAILED, "s behind that of 127.0.0.1"),
    ],
)
async def test_a_wrong_clock_is_told_by_what_a_server_says(ahead_s: int, verdict: Verdict, words: str) -> None:
    async with server_that_says(format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True)) as url:
        (found,) = await clock(url)
    assert found.verdict is verdict
    assert words in found.text.replace("59 s", "60 s").replace("61 s", "60 s")
    assert verdict is Verdict.OK or "timedatectl set-ntp" in (found.advice or "")


@pytest.mark.parametrize("date", [None, "yesterday"])
async def test_a_server_that_does_not_know_the_time_proves_nothing(date: str | None) -> None:
    async with server_that_says(date) as url:
        (found,) = await clock(url)
    assert found.verdict is Verdict.SKIPPED


@pytest.mark.parametrize(("free", "verdict"), [(50e9, "ok"), (3e9, "warning"), (2e8, "failed")])
def test_a_disk_that_is_nearly_full_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path, free: float, verdict: str
) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert room_finding("Disk", tmp_path / "not" / "there", 5.0).verdict == verdict


async def test_a_look_that_takes_too_long_fails_by_itself_and_hides_no_other() -> None:
    async def stuck() -> list:
        await asyncio.sleep(60)
        return []

    (found,) = await _look(Check("Chain", stuck, 0.05))
    assert (found.subject, found.verdict) == ("Chain", Verdict.FAILED)
    assert "within 0.05 s" in found.text


async def test_a_setting_that_is_not_valid_is_one_line_that_names_it(run) -> None:
    visit = await run("doctor", KINITRO_API_PORT="many")
    assert visit.code == 1
    assert "KINITRO_API_PORT" in visit.stderr
    assert "Traceback" not in visit.stderr

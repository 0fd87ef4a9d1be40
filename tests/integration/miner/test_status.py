"""`kinitro miner status` against a real API, scheduler and ledger, all as processes."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

Kinitro = Callable[..., "subprocess.CompletedProcess[str]"]
NETUID = "5"


@pytest.fixture
def variables(tmp_path: Path, database_url: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KINITRO_", "BT_"))}
    return clean | {
        "KINITRO_HOME": str(tmp_path / "home"),
        "KINITRO_API_DATABASE_URL": database_url,
        "KINITRO_SCHEDULER_DATABASE_URL": database_url,
        "BT_NETWORK": "dev",
        "COLUMNS": "200",
    }


@pytest.fixture
def kinitro(variables: dict[str, str], tmp_path: Path) -> Kinitro:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "kinitro", *arguments]
        return subprocess.run(
            command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture
def api_url(variables: dict[str, str], tmp_path: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    api = _service(("api", "--port", str(port)), variables, tmp_path)
    try:
        url = f"http://localhost:{port}"
        _until(lambda: httpx.get(f"{url}/health").status_code == 200)
        yield url
    finally:
        api.terminate()
        api.wait(20)


@pytest.fixture
def scheduler(variables: dict[str, str], tmp_path: Path) -> Iterator[Callable[[], None]]:
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        running.append(_service(("scheduler", "--network", "dev", "--netuid", NETUID), variables, tmp_path))

    yield start
    for process in running:
        process.terminate()
        process.wait(20)


def _service(arguments: tuple[str, ...], variables: dict[str, str], folder: Path) -> "subprocess.Popen[bytes]":
    log = (folder / f"{arguments[0]}.log").open("wb")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "kinitro", *arguments], env=variables, cwd=folder, stdout=log, stderr=log
        )


def _until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("it did not come about in time")


def commit(kinitro: Kinitro, wallet: str, repo: str, digit: str, netuid: str = NETUID) -> None:
    done = kinitro(
        "miner", "commit", "--repo", repo, "--revision", digit * 40, "--netuid", netuid, "--wallet-name", wallet
    )
    assert done.returncode == 0, done.stderr


def standing(kinitro: Kinitro, url: str, *more: str) -> "subprocess.CompletedProcess[str]":
    return kinitro("miner", "status", "--api-url", url, *more)


def test_with_nothing_there_each_side_says_what_is_wrong(kinitro: Kinitro, api_url: str) -> None:
    commit(kinitro, "other", "b/policy", "b")  # so that the subnet exists
    shown = standing(kinitro, api_url, "--netuid", NETUID, "--wallet-name", "me")
    assert shown.returncode == 1
    assert "is not registered on netuid 5" in shown.stdout
    assert "A scheduler: none runs" in shown.stdout
    away = standing(kinitro, "http://localhost:9", "--netuid", NETUID, "--wallet-name", "other")
    assert away.returncode == 0, "what is committed can be evaluated, whether or not the API answers just now"
    assert "b/policy@" in away.stdout
    assert "can't be reached" in away.stdout
    assert "Traceback" not in shown.stderr + away.stderr


def test_a_submission_is_followed_from_its_commitment_to_the_queue(
    kinitro: Kinitro, api_url: str, scheduler: Callable[[], None]
) -> None:
    commit(kinitro, "me", "a/policy", "a")
    commit(kinitro, "thief", "a/policy", "a")
    scheduler()
    me = ("--netuid", NETUID, "--wallet-name", "me")
    _until(lambda: httpx.get(f"{api_url}/v1/status").json()["is_evaluating"], 60)

    shown = standing(kinitro, api_url, *me)
    assert shown.returncode == 0
    assert f"a/policy@{'a' * 40}" in shown.stdout
    assert "place 1, first seen at block" in shown.stdout
    assert "0 of 400 episodes are done" in shown.stdout
    assert "An executor that serves metaworld/" in shown.stdout

    copied = standing(kinitro, api_url, "--netuid", NETUID, "--wallet-name", "thief")
    assert copied.returncode == 1
    assert "copy: copy of uid 0" in copied.stdout
    assert "A copy earns nothing" in copied.stdout

    commit(kinitro, "me", "a/policy", "c")
    told = json.loads(standing(kinitro, api_url, *me, "--json").stdout)
    assert told["takes_part"] is True
    assert told["committed"]["ref"]["revision"] == "c" * 40
    assert told["status"]["revision"] == "a" * 40
    assert "has not taken in the present commitment" in told["advice"][0]

    by_address = standing(kinitro, api_url, "--netuid", NETUID, "--hotkey", told["hotkey"])
    assert told["hotkey"] in by_address.stdout
    assert by_address.returncode == 0

    commit(kinitro, "me", "a/policy", "a", netuid="6")
    foreign = standing(kinitro, api_url, "--netuid", "6", "--wallet-name", "me")
    assert foreign.returncode == 1
    assert "This API evaluates netuid 5 of the same chain" in foreign.stdout

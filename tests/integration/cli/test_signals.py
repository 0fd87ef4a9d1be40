"""How a service ends: by Ctrl-C or SIGTERM with 0, and not by a Ctrl-C that was for somebody else."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

IGNORING = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
"""As a script starts its background commands."""


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def start(tmp_path: Path, database_url: str) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    started = []

    def start(*words: str, before: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        command = [*before, sys.executable, "-m", "kinitro", words[0], "--database-url", database_url, *words[1:]]
        variables = os.environ | {"KINITRO_HOME": str(tmp_path)}
        started.append(subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def until_healthy(port: int) -> None:
    end = time.monotonic() + 30
    while not healthy(port):
        assert time.monotonic() < end, "the API does not come up"
        time.sleep(0.1)


def until_logged(process: "subprocess.Popen[str]", event: str) -> None:
    for line in process.stderr:
        if event in line:
            return
    raise AssertionError(f"it ended without {event}")


def test_ctrl_c_is_an_ordinary_end_of_the_api(start, port: int) -> None:
    api = start("api", "--port", str(port))
    until_healthy(port)
    api.send_signal(signal.SIGINT)
    assert api.wait(20) == 0


def test_ctrl_c_is_an_ordinary_end_of_the_scheduler(start) -> None:
    scheduler = start("scheduler", "--network", "dev")
    until_logged(scheduler, "scheduler_started")
    scheduler.send_signal(signal.SIGINT)
    assert scheduler.wait(20) == 0


def test_the_api_in_a_scripts_background_outlives_the_ctrl_c_for_the_foreground(start, port: int) -> None:
    api = start("api", "--port", str(port), before=IGNORING)
    until_healthy(port)
    api.send_signal(signal.SIGINT)
    time.sleep(1)
    assert healthy(port)
    api.terminate()
    assert api.wait(20) == 0


def test_so_does_the_scheduler(start) -> None:
    scheduler = start("scheduler", "--network", "dev", before=IGNORING)
    until_logged(scheduler, "scheduler_started")
    scheduler.send_signal(signal.SIGINT)
    time.sleep(1)
    assert scheduler.poll() is None
    scheduler.terminate()
    assert scheduler.wait(20) == 0

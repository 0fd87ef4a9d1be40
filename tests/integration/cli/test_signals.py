"""How commands end: a service by Ctrl-C or SIGTERM with 0, and not by a Ctrl-C that was for somebody else.

One that has an end of its own says with 130 or 143 that it was cut short.
"""

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


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Takes connections, never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        yield listener


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "words",
    [
        ("replay", "--all"),
        ("replay", "--last-failure", "--miner", "1", "--video", "failure.mp4"),
        ("explain", "--miner", "1"),
        ("compare", "1", "2"),
        ("export", "1"),
        ("doctor", "--role", "executor", "--eval-mode", "process"),
    ],
    ids=" ".join,
)
def test_a_command_that_is_cut_short_does_not_look_as_if_it_had_ended(
    silent: socket.socket, tmp_path: Path, words: tuple[str, ...], number: signal.Signals, code: int
) -> None:
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    with subprocess.Popen(
        [sys.executable, "-m", "kinitro", *words, "--api-url", url],
        env=os.environ | {"KINITRO_HOME": str(tmp_path), "HF_ENDPOINT": url},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            asked, _ = silent.accept()
            with asked:
                time.sleep(0.2)  # into the wait for an answer
                process.send_signal(number)
                said = process.communicate(timeout=20)
        finally:
            process.kill()
    # A shell calls the end by a signal that nobody handled 128 + its number.
    ended = process.returncode if process.returncode >= 0 else 128 - process.returncode
    assert ended == code, said
    assert said[0] == ""
    assert "Error" not in said[1]

# ruff: noqa: ASYNC220 - it starts real commands
"""The commands as a miner types them."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from kinitro.testing.hub import LocalHub

from .conftest import RIGHT


async def kinitro(home: Path, *arguments: str) -> tuple[int, str]:
    """Runs a command; its exit code, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kinitro", "miner", *arguments),
        cwd=home,
        env=os.environ | {"KINITRO_HOME": str(home), "HF_HOME": str(home / "hf")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_init_writes_a_folder_whose_server_runs_without_kinitro(tmp_path: Path) -> None:
    code, said = await kinitro(tmp_path, "init", "mine")
    assert code == 0, said
    assert "kinitro miner check mine" in said
    without = "import sys, runpy; sys.modules['kinitro'] = None; sys.argv[0] = 'server.py'; "
    without += "runpy.run_path('server.py', run_name='__main__')"
    with socket_port() as port:
        server = subprocess.Popen([sys.executable, "-B", "-c", without, "--port", str(port)], cwd=tmp_path / "mine")
        try:
            assert (await until_healthy(port))["max_concurrent_episodes"] == 8
        finally:
            server.terminate()
            server.wait(10)


async def test_serve_runs_a_folder_without_our_tokens_until_it_is_told_to_stop(tmp_path: Path, folder: Path) -> None:
    (folder / "policy.py").write_text(
        "import os\nleft = [name for name in os.environ if name.startswith(('HF_TOKEN', 'KINITRO_'))]\n"
        "if left:\n    raise SystemExit(f'found {left}')\n" + RIGHT
    )
    with socket_port() as port:
        server = subprocess.Popen(
            [sys.executable, "-m", "kinitro", "miner", "serve", str(folder), "--port", str(port)],
            env=os.environ | {"HF_TOKEN": "hf_secret", "KINITRO_API_API_KEY": "secret"},
        )
        try:
            assert (await until_healthy(port))["status"] == "healthy"
            server.send_signal(signal.SIGINT)
            assert server.wait(10) in (0, 130, -signal.SIGINT)
        finally:
            server.kill()


async def test_serve_names_a_port_in_use_and_never_says_that_it_serves(tmp_path: Path, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = await kinitro(tmp_path, "serve", str(folder), "--port", str(port))
    assert code == 1
    first, advice = said.splitlines()
    assert first.startswith(f"Error: The policy's server can't listen on port {port} of 127.0.0.1: ")
    assert "--port" in advice


async def test_a_new_lerobot_folder_says_what_is_missing_and_check_does_too(tmp_path: Path) -> None:
    code, said = await kinitro(tmp_path, "init", "mine", "--template", "lerobot")
    assert code == 0
    assert "weights, which are still missing" in said
    assert "kinitro miner check mine --lock" in said
    code, said = await kinitro(tmp_path, "check", "mine", "--episodes", "0")
    assert code == 1
    assert "FIX   requirements: requirements.in names lerobot" in said
    assert "kinitro miner check mine --lock" in said


async def test_deploy_asks_the_hub_before_it_checks_or_uploads(
    tmp_path: Path, folder: Path, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "policy.py").write_text("open('ran', 'w')\n")
    deploy = ("deploy", "--path", str(folder), "--network", "dev")
    code, said = await kinitro(tmp_path, *deploy, "--repo", "other/policy")
    assert (code, said.splitlines()[0]) == (1, "Error: The hub's token is of me, who can't write to other/policy.")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for how in ((), ("--no-check",)):
        code, said = await kinitro(tmp_path, *deploy, *how, "--repo", "me/policy")
        assert code == 1
        assert said.startswith("Error: The hub can't be reached: ")
    assert hub.repo("me/policy") is None


async def test_a_place_without_a_policy_is_said_in_one_line(tmp_path: Path) -> None:
    for command in (
        ("serve", "nowhere"),
        ("check", "nowhere"),
        ("deploy", "--repo", "me/x", "--path", "nowhere", "--network", "dev", "--dry-run", "--no-check"),
    ):
        code, said = await kinitro(tmp_path, *command)
        assert code == 1
        assert said.startswith("Error: ")
        assert "Traceback" not in said
        assert "kinitro miner init" in said


async def test_check_says_what_to_fix_and_exits_with_1(tmp_path: Path, folder: Path) -> None:
    (folder / "requirements.txt").write_text("torch\n")
    code, said = await kinitro(tmp_path, "check", str(folder), "--episodes", "0")
    assert code == 1
    assert "FIX   requirements: requirements.txt: line 1, 'torch'" in said
    assert said.endswith("Not ready. To fix: requirements.\n")


async def test_deploy_and_deploy_again(tmp_path: Path, folder: Path, hub: LocalHub) -> None:
    command = (
        "deploy",
        "--repo",
        "me/policy",
        "--path",
        str(folder),
        "--netuid",
        "3",
        "--network",
        "dev",
        "--no-check",
    )
    code, said = await kinitro(tmp_path, *command)
    assert code == 0, said
    revision = hub.repo("me/policy").commits[-1][0]
    assert f"Committed: me/policy@{revision}" in said
    assert "Next: the scheduler takes it" in said
    code, said = await kinitro(tmp_path, *command)
    assert (code, f"Already committed: me/policy@{revision}" in said) == (0, True)
    code, said = await kinitro(
        tmp_path,
        "deploy",
        "--repo",
        "me/policy",
        "--skip-upload",
        "--revision",
        revision,
        "--netuid",
        "3",
        "--network",
        "dev",
    )
    assert (code, "Already committed" in said) == (0, True)


@pytest.mark.parametrize(
    "flags", [(), ("--path", "x", "--skip-upload"), ("--path", "x", "--revision", "a" * 40), ("--skip-upload",)]
)
async def test_flags_that_do_not_go_together_are_wrong_usage(tmp_path: Path, flags: tuple[str, ...]) -> None:
    code, said = await kinitro(tmp_path, "deploy", "--repo", "me/policy", "--network", "dev", *flags)
    assert code == 2
    assert "--skip-upload with --revision" in " ".join(said.split())


@contextmanager
def socket_port() -> Iterator[int]:
    """A port that is free now; a server may take it, nobody who asks for any port gets it."""
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]


async def until_healthy(port: int, timeout_s: float = 20.0) -> dict:
    end = time.monotonic() + timeout_s
    async with httpx.AsyncClient() as client:
        while True:
            try:
                return (await client.get(f"http://127.0.0.1:{port}/health")).json()
            except httpx.TransportError:
                assert time.monotonic() < end, "the server did not start"
                await asyncio.sleep(0.05)

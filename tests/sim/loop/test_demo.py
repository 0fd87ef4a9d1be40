"""The demo as a newcomer runs it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A temporary directory with a name short enough for a socket below it."""
    with tempfile.TemporaryDirectory(prefix="kd-") as made:
        yield Path(made)


def start_demo(scratch: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "kinitro", "demo", *arguments],
        env=os.environ | {"TMPDIR": str(scratch), "COLUMNS": "100"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(scratch: Path) -> list[str]:
    """Command lines of processes that work in the demo's directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(scratch) in command or f"KINITRO_HOME={scratch}" in environment:
            found.append(command)
    return found


@pytest.mark.timeout(240)
def test_the_demo_ends_in_a_leaderboard_where_the_copy_earns_nothing(scratch):
    demo = start_demo(scratch, "--episodes", "3")
    shown, _ = demo.communicate(timeout=220)
    assert demo.returncode == 0, shown
    (weights,) = [line for line in shown.splitlines() if " weight" in line]
    shares = [float(share) for share in re.findall(r"([\d.]+)%", weights)]
    assert len(shares) == 5
    assert sum(shares) == pytest.approx(100.0, abs=0.3)
    assert shares[0] == 0.0
    assert shares[4] == 0.0
    assert "copycat earns nothing: it is a copy of uid 3" in " ".join(shown.split())
    assert processes_of(scratch) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.timeout(240)
def test_without_an_opengl_library_the_demo_says_so_and_goes_on_blind(scratch):
    demo = start_demo(
        scratch, "--episodes", "1", KINITRO_GL="egl", __EGL_VENDOR_LIBRARY_FILENAMES=str(scratch / "no-driver.json")
    )
    shown, _ = demo.communicate(timeout=220)
    assert demo.returncode == 0, shown
    assert "No OpenGL library draws camera images here" in shown
    assert "libosmesa6" in shown
    assert " weight" in shown


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seconds", [1.0, 12.0])
def test_ctrl_c_leaves_nothing_behind(scratch, seconds):
    demo = start_demo(scratch)
    time.sleep(seconds)
    demo.send_signal(signal.SIGINT)
    shown, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, shown
    assert "Traceback" not in shown
    assert processes_of(scratch) == []
    assert list(scratch.iterdir()) == []

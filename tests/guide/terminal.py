"""A terminal in which a piece of the guide runs: a real one, so that Ctrl-C reaches whom it reaches there."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A bash with a terminal of its own, in the checkout. Leaving its block ends everything that runs in it."""

    def __init__(self, script: str, variables: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        # Who opens a terminal as a session's leader gets it as the one that its Ctrl-C comes from.
        opened = f"exec <{os.ttyname(slave)} >{os.ttyname(slave)} 2>&1\nset -e\n{script}"
        self._process = subprocess.Popen(
            ["bash", "-c", opened], cwd=ROOT, env=dict(variables), start_new_session=True, stdin=subprocess.DEVNULL
        )
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._slave = slave  # open until the end: what is read must not break off between two programs

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.interrupt()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(60)
        with contextlib.suppress(ProcessLookupError):  # nobody is left of its own group
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._slave)
        self._reader.join(5)
        os.close(self._master)

    @property
    def shown(self) -> str:
        """All that it shows, without colours."""
        return _COLOURS.sub("", self._shown.decode(errors="replace")).replace("\r\n", "\n")

    def lines(self, event: str) -> list[str]:
        """The lines of one log event, from the event on."""
        return re.findall(rf"\] ({event} .*)", self.shown)

    def until(self, pattern: str, timeout_s: float = 90.0, count: int = 1) -> str:
        """Waits until it shows the pattern so often, and returns the last of these lines."""
        end = time.monotonic() + timeout_s
        while len(found := re.findall(rf".*{pattern}.*", self.shown)) < count:
            assert self._process.poll() is None or self._settled(), f"it ended without {pattern!r}:\n{self.shown}"
            assert time.monotonic() < end, f"no {pattern!r} within {timeout_s} s:\n{self.shown}"
            time.sleep(0.05)
        return str(found[count - 1])

    def wait(self, timeout_s: float = 120.0) -> int:
        """Waits for its end and returns the exit code."""
        code = self._process.wait(timeout_s)
        self._settled()
        return code

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.write(self._master, b"\x03")

    def stop(self, timeout_s: float = 60.0) -> int:
        """Ctrl-C, and its exit code."""
        self.interrupt()
        return self.wait(timeout_s)

    def _settled(self) -> bool:
        """False, once what an ended process wrote has been read."""
        before = -1
        while before != len(self._shown):
            before = len(self._shown)
            time.sleep(0.2)
        return False

    def _read(self) -> None:
        while True:
            try:
                some = os.read(self._master, 65536)
            except OSError:  # everyone has closed the other end
                return
            if not some:
                return
            self._shown += some

"""Runs one command and guarantees that its whole process tree ends with whoever asked for it.

A script of the standard library alone (`python -I -S supervisor.py ...`): it must start in milliseconds and depend on
nothing that the command could break. Its standard input is a socket to the parent, one JSON object a line.
Out: `{"pid", "started"}` or `{"failed"}` first, then `{"exit"}` when the command ends, or `{"ended"}` with the reason
when this script was told by a signal to end it. In: `{"stop": grace seconds}`.
End of input means that the parent is gone, however it died: the tree is killed at once.
"""

import argparse
import contextlib
import ctypes
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LOG_BYTES = 64 * 1024
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"


def main() -> None:
    """Runs the command of the command line until it is told to stop or its parent is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--scratch", default="")
    parser.add_argument("--memory-bytes", type=int, default=0)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    try:
        with contextlib.closing(RingLog(options.log)) as log:
            _Supervisor(socket.socket(fileno=0), log).run(options)
    finally:
        if options.scratch:
            shutil.rmtree(options.scratch, ignore_errors=True)


class RingLog:
    """The last output of a command, in two files that take turns: at most twice `LOG_BYTES` on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb", buffering=0)
        self._size = 0

    def write(self, data: bytes) -> None:
        """Appends; the oldest output goes. A full disk loses output and nothing else."""
        with contextlib.suppress(OSError):
            if self._size + len(data) > LOG_BYTES:
                self._turn()
            self._size += self._file.write(data[-LOG_BYTES:])

    def close(self) -> None:
        """Closes the file; what was written stays."""
        self._file.close()

    def _turn(self) -> None:
        self._file.close()
        self._path.replace(previous_log(self._path))
        self._file = self._path.open("wb", buffering=0)
        self._size = 0


def previous_log(path: Path) -> Path:
    """Where the output before that in `path` is kept."""
    return path.with_suffix(".old")


class _Supervisor:
    """One command, its log and its process tree, in one thread."""

    def __init__(self, control: socket.socket, log: RingLog) -> None:
        self._control = control
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._received = b""
        self._command: subprocess.Popen[bytes] | None = None
        self._child = 0
        self._exited = False
        self._deadline: float | None = None
        self._over = False

    def run(self, options: argparse.Namespace) -> None:
        if _LINUX:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        wake = self._listen_to_signals()
        output, output_end = os.pipe()
        try:
            # Kept, though only its number is used: its finaliser would take a child that has ended already from us.
            self._command = _start(options, output_end)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._tell({"failed": str(error)})
            return
        self._child = self._command.pid
        os.close(output_end)
        self._tell({"pid": self._child, "started": process_start(self._child)})
        self._serve(wake, output)

    def _listen_to_signals(self) -> socket.socket:
        wake, wake_end = socket.socketpair()
        wake.setblocking(False)
        wake_end.setblocking(False)
        signal.set_wakeup_fd(wake_end.detach(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: self._end())
        return wake

    def _end(self) -> None:
        # Said before the command is killed: its end is then nobody's fault but ours.
        if not self._over and not self._exited:
            self._tell({"ended": "its supervisor was told to stop"})
        self._over = True

    def _serve(self, wake: socket.socket, output: int) -> None:
        os.set_blocking(output, False)
        self._selector.register(self._control, selectors.EVENT_READ, self._on_control)
        self._selector.register(wake, selectors.EVENT_READ, lambda: self._on_child(wake, output))
        self._selector.register(output, selectors.EVENT_READ, lambda: self._on_output(output))
        try:
            while not self._over and not self._late():
                for key, _ in self._selector.select(self._patience()):
                    key.data()
        finally:
            kill_descendants(os.getpid(), self._child)

    def _patience(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _late(self) -> bool:
        """After a request to stop: true once the command has ended or its grace is spent."""
        return self._deadline is not None and (self._exited or time.monotonic() >= self._deadline)

    def _on_control(self) -> None:
        received = self._control.recv(4096)
        if not received:
            self._over = True
        *lines, self._received = (self._received + received).split(b"\n")
        for line in lines:
            self._deadline = time.monotonic() + float(json.loads(line)["stop"])
            if not self._exited:
                _signal_group(self._child, signal.SIGTERM)

    def _on_child(self, wake: socket.socket, output: int) -> None:
        with contextlib.suppress(BlockingIOError):
            wake.recv(4096)
        for pid, code in _reap():
            if pid == self._child:
                self._exited = True
                # A dead server's children must not go on working, nor keep its port.
                kill_descendants(os.getpid(), self._child)
                while self._on_output(output):
                    pass
                if not self._over:
                    self._tell({"exit": code})

    def _on_output(self, output: int) -> bool:
        try:
            data = os.read(output, 65536)
        except BlockingIOError:
            return False
        if not data and output in self._selector.get_map():
            self._selector.unregister(output)
        self._log.write(data)
        return bool(data)

    def _tell(self, message: dict[str, object]) -> None:
        # When the parent is gone, the end of input says so.
        with contextlib.suppress(OSError):
            self._control.sendall(json.dumps(message).encode() + b"\n")


def _start(options: argparse.Namespace, output_end: int) -> "subprocess.Popen[bytes]":
    parent = os.getpid()
    return subprocess.Popen(
        options.command,
        cwd=options.directory,
        stdin=subprocess.DEVNULL,
        stdout=output_end,
        stderr=output_end,
        start_new_session=True,
        # One thread here, so code between fork and exec is safe.
        preexec_fn=lambda: _enter_child(parent, options.memory_bytes),  # noqa: PLW1509 - see above
    )


def _enter_child(supervisor: int, memory_bytes: int) -> None:
    """Runs in the new process before the command: dies with the supervisor, gives up memory before others do."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes:
        # Data, not address space: runtimes reserve far more addresses than they ever use.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    if not _LINUX:
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _reap() -> Iterator[tuple[int, int]]:
    """Collects every child that ended, the adopted ones included."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            yield pid, os.waitstatus_to_exitcode(status)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def process_start(pid: int) -> str:
    """When a process started, in the kernel's ticks since boot: tells it from a later one of the same number."""
    with contextlib.suppress(OSError, IndexError):
        return _stat_fields(pid)[19]
    return ""


def _stat_fields(pid: int) -> list[str]:
    """`/proc/PID/stat` after the command's name, which may itself hold spaces and brackets."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def kill_descendants(ancestor: int, group: int) -> None:
    """Kills everything below `ancestor`, and the process group, until nothing is left (5 s at most).

    All are stopped before any is killed, so that none can start another meanwhile.
    """
    end = time.monotonic() + 5.0
    _signal_group(group, signal.SIGKILL)
    while time.monotonic() < end:
        for _ in _reap():
            pass
        left = descendants(ancestor)
        if not left:
            return
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        time.sleep(0.005)


def descendants(ancestor: int) -> list[int]:
    """Every living process below `ancestor`. Empty where there is no `/proc`."""
    parents = dict(_living())
    return [pid for pid in parents if ancestor in _ancestry(pid, parents)]


def _living() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            state, parent = _stat_fields(int(entry.name))[:2]
            if state not in "ZX":
                yield int(entry.name), int(parent)


def _ancestry(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while (pid := parents.get(pid, 0)) > 1:
        yield pid


if __name__ == "__main__":
    main()

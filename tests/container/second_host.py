"""A second Docker host on this machine: an engine and an SSH server in network and mount namespaces of their own."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NAMESPACE = "kinitro-test"
HERE, THERE, PORT = "10.99.213.1", "10.99.213.2", 2222
_SERVE = """
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd /run/lock
dockerd --data-root {folder}/data --bip 10.98.0.1/24 --pidfile /run/dockerd.pid \
    -H unix:///var/run/docker.sock -H unix://{folder}/docker.sock >{folder}/dockerd.log 2>&1 &
exec /usr/sbin/sshd -D -e -p {port} -h {folder}/host_key -o ListenAddress={there} -o PidFile=none -o UsePAM=no \
    -o StrictModes=no -o AuthorizedKeysFile={folder}/user_key.pub -o PermitRootLogin=prohibit-password
"""


@dataclass(frozen=True)
class SecondHost:
    """`url` is how an executor names it, `commands` a folder for PATH whose `ssh` knows the host and has a key."""

    folder: Path
    url: str
    commands: Path

    def docker(self, *arguments: str) -> str:
        """The docker command's output, of that engine."""
        return _run("docker", "-H", f"unix://{self.folder}/docker.sock", *arguments)

    def break_connections(self) -> None:
        """Ends every SSH connection to it; the server goes on."""
        subprocess.run(["pkill", "-f", "^sshd: root"], check=False)


@contextlib.contextmanager
def second_host(folder: Path, *images: str) -> Iterator[SecondHost]:
    """Needs root. The images are copied from this machine's own engine."""
    _make_keys(folder)
    with _network(), _servers(folder):
        host = SecondHost(folder, f"ssh://root@{THERE}:{PORT}", folder / "commands")
        _until_answering(host)
        script = f"docker save {' '.join(images)} | docker -H unix://{folder}/docker.sock load"
        subprocess.run(["sh", "-c", script], check=True, capture_output=True, timeout=300)
        yield host


def _make_keys(folder: Path) -> None:
    for name in ("host_key", "user_key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    public = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[{THERE}]:{PORT} {public}")
    (folder / "commands").mkdir()
    # ssh takes ~/.ssh from the user database, not from HOME: this is the one way to give it others.
    options = f"-F none -i {folder}/user_key -o UserKnownHostsFile={folder}/known_hosts"
    command = folder / "commands" / "ssh"
    command.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {options} "$@"\n')
    command.chmod(0o755)


@contextlib.contextmanager
def _network() -> Iterator[None]:
    for left in (("netns", "del", NAMESPACE), ("link", "del", "kntest0")):  # by a run that was killed
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("ip", *left)
    _run("ip", "netns", "add", NAMESPACE)
    try:
        _run("ip", "link", "add", "kntest0", "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE)
        _run("ip", "addr", "add", f"{HERE}/30", "dev", "kntest0")
        _run("ip", "link", "set", "kntest0", "up")
        for command in (f"addr add {THERE}/30 dev eth0", "link set eth0 up", "link set lo up"):
            _run("ip", "-n", NAMESPACE, *command.split())
        yield
    finally:
        _run("ip", "netns", "del", NAMESPACE)


@contextlib.contextmanager
def _servers(folder: Path) -> Iterator[None]:
    script = _SERVE.format(folder=folder, port=PORT, there=THERE)
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            # Not `ip netns exec`, which hides the control groups.
            ["nsenter", f"--net=/run/netns/{NAMESPACE}", "unshare", "--mount", "--pid", "--fork", "--kill-child",
             "--mount-proc", "sh", "-c", script], stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield
    finally:
        process.kill()  # with --kill-child everything of its process namespace goes too
        process.wait(30)
        for mount in sorted(Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()):
            if mount.is_relative_to(folder):
                subprocess.run(["umount", "-l", str(mount)], check=False)
        shutil.rmtree(folder / "data", ignore_errors=True)


def _until_answering(host: SecondHost) -> None:
    environment = os.environ | {"PATH": f"{host.commands}:{os.environ['PATH']}"}
    end = time.monotonic() + 60
    while True:
        try:
            host.docker("info")
            command = ["ssh", "-o", "BatchMode=yes", "-p", str(PORT), f"root@{THERE}", "true"]
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=10)
        except subprocess.CalledProcessError:
            if time.monotonic() >= end:
                raise RuntimeError((host.folder / "dockerd.log").read_text()[-2000:]) from None
            time.sleep(0.3)
        else:
            return


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

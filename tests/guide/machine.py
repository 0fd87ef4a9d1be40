"""What the guide's prerequisites say, for real: PostgreSQL, a chain node, a hub, a wallet. All made for the tests."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from kinitro.policy import server as policy_server
from kinitro.testing.hub import HubRepo, LocalHub, serving
from kinitro.testing.local_node import NOT_THERE, LocalNode, node_folder, run_node
from kinitro.types import PolicyRef

from . import guide
from .terminal import ROOT, Terminal

USER = "guide-tests"
TOKEN = "hf_thetokenoftheguide1"
READER = "hf_anothertokenofthem2"
POSTGRES, API = 5432, 8000
_OURS = ("KINITRO_", "BT_", "HF_", "BASILICA_", "XDG_", "PG", "NO_COLOR", "FORCE_COLOR")
POLICY = "/tmp/kinitro-test-policy"  # where the guide has it
_MAKE_WALLET = """
import bittensor
wallet = bittensor.Wallet("bob", "hotkey0")
wallet.create_new_hotkey(use_password=False, suppress=True)
print(wallet.hotkey.ss58_address)
"""


def docker(*arguments: str) -> str:
    """The docker command's output."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True, timeout=120).stdout


def inspected(role: str) -> list[dict[str, Any]]:
    """The engine's own account of our running containers of a role."""
    found = docker("ps", "-q", "--filter", f"label=kinitro.role={role}").split()
    # One may end between the two: the others are shown all the same.
    shown = subprocess.run(["docker", "inspect", *found], capture_output=True, text=True, check=False, timeout=60)
    return list(json.loads(shown.stdout)) if found else []


@dataclass(frozen=True)
class Machine:
    """A new user's machine. `environment` is that of each of its terminals, `netuid` 2 has the hotkey at `uid`."""

    environment: dict[str, str]
    hub: LocalHub
    node: LocalNode
    portal: BlockingPortal
    hotkey: str
    uid: int
    terminals: list[Terminal] = field(default_factory=list)

    template: Path = ROOT / "src" / "kinitro" / "miner" / "template" / "minimal"

    def literal(self, text: str) -> str:
        """The guide's text with its two places filled in: the network's address and the user's name."""
        return text.replace(guide.THEIR_NETWORK, self.node.url).replace(guide.THEIR_USER, USER)

    def terminal(self, piece: str, **variables: str) -> Terminal:
        """Opens a terminal that has the guide's test configuration and runs a piece of the guide in it."""
        script = f"{guide.DATABASE}{guide.NETWORK}{piece}"
        self.terminals.append(Terminal(self.literal(script), self.environment | variables))
        return self.terminals[-1]

    def run(self, piece: str, *, timeout_s: float = 120.0, **variables: str) -> str:
        """Runs a piece to its end, which must be a good one, and returns what it showed."""
        with self.terminal(piece, **variables) as terminal:
            code = terminal.wait(timeout_s)
            assert code == 0, f"{piece}ended with {code}:\n{terminal.shown}"
        return terminal.shown

    def upload(self, name: str, *, private: bool = False, **changed: str) -> PolicyRef:
        """Puts the policy template on the hub, with other contents for some files (`server` is server.py)."""
        server, policy = Path(policy_server.__file__).read_text(), (self.template / "policy.py").read_text()
        files = {"server.py": server, "requirements.txt": "", "policy.py": policy}
        files |= {f"{key}.py": text for key, text in changed.items()}
        kept = {path: self.hub.keep(text.encode()) for path, text in files.items()}
        repo = HubRepo(f"{USER}/{name}", private=private)
        return PolicyRef(repo.repo_id, self.hub.add_commit(repo, kept))


def missing() -> str | None:
    """What this machine lacks for the guide, or None."""
    has = {
        NOT_THERE: node_folder() is not None,
        "no Docker engine answers": shutil.which("docker") is not None and _succeeds("docker", "info"),
        "Debian's PostgreSQL is not installed (apt-get install postgresql)": _postgres_programs() is not None,
        "no uv, which the guide's commands begin with (make setup)": shutil.which("uv", path=_path()) is not None,
        "no curl (apt-get install curl)": shutil.which("curl") is not None,
    } | {f"port {port} is taken, which the guide names": not answers(port) for port in (POSTGRES, API)}
    return next((lack for lack, there in has.items() if not there), None)


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


@contextmanager
def new_machine() -> Iterator[Machine]:
    """Sets it all up, and takes it all away."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kinitro-guide-")))
        stack.enter_context(_postgresql())
        portal = stack.enter_context(start_blocking_portal())
        hub = LocalHub(home / "hub", {TOKEN: USER, READER: USER})
        url = stack.enter_context(portal.wrap_async_context_manager(serving(hub)))
        folder = node_folder()
        assert folder is not None
        node = stack.enter_context(portal.wrap_async_context_manager(run_node(folder, block_time_s=1)))
        environment = _environment(home) | {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN}
        hotkey = subprocess.run(
            [sys.executable, "-c", _MAKE_WALLET], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()[-1]
        uid = portal.call(node.dev, "register", 2, hotkey)
        stack.callback(shutil.rmtree, POLICY, ignore_errors=True)
        yield Machine(environment, hub, node, portal, hotkey, uid)


def _environment(home: Path) -> dict[str, str]:
    """A new user's, with nothing of this one's; uv's cache stays, so that it need not download again."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    cache = subprocess.run(
        ["uv", "cache", "dir"], env=kept | {"PATH": _path()}, capture_output=True, text=True, check=True
    )
    own = {"HOME": str(home), "PATH": _path(), "UV_CACHE_DIR": cache.stdout.strip(), "TERM": "xterm", "COLUMNS": "500"}
    # Where PyTorch's index can't be reached: the build's commands stay as they are.
    return kept | own | {"KINITRO_BUILD_TORCH_INDEX": os.environ.get("KINITRO_BUILD_TORCH_INDEX", "none")}


def _path() -> str:
    return f"{ROOT / '.uv' / 'bin'}:{os.environ['PATH']}"


def _postgres_programs() -> Path | None:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: int(path.parent.name), default=None)


def answers(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _postgresql() -> Iterator[None]:
    """A server at 5432 as Debian sets it up, with the guide's user and database."""
    programs = _postgres_programs()
    folder = tempfile.mkdtemp(prefix="kinitro-postgresql-")
    as_root = os.geteuid() == 0
    if as_root:
        shutil.chown(folder, "postgres")

    def run(program: str, *arguments: str) -> None:
        own = ["runuser", "-u", "postgres", "--"] if as_root else []
        done = subprocess.run(
            [*own, f"{programs}/{program}", *arguments], capture_output=True, text=True, check=False, cwd="/"
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    try:
        run("initdb", "-D", f"{folder}/db", "-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256")
        options = f"-p {POSTGRES} -c listen_addresses=localhost -k {folder} -c logging_collector=on"
        run("pg_ctl", "-D", f"{folder}/db", "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            for statement in (
                "create role myuser login password 'mypassword'",
                "create database backenddb owner myuser",
            ):
                run("psql", "-h", folder, "-p", str(POSTGRES), "-U", "postgres", "-c", statement)
            yield
        finally:
            run("pg_ctl", "-D", f"{folder}/db", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""Policies that attack. One executor runs them all beside an honest one: each ends with the fault that is due."""

import asyncio
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kinitro.policy import server as policy_server
from kinitro.schemas import ResultIn
from kinitro.types import ErrorKind, PolicyRef

from .conftest import left_over, until

ENV_ID = "metaworld/reach-v3"

# A Policy class; `act` is what the case is about. What it raises comes back to us as the episode's error.
BEHAVES = {
    "endless import": ("while True: pass", "", "Miner deployment not ready"),
    "endless reset": ("", "if name == 'reset':\n    while True: pass", "did not answer /reset"),
    "endless act": ("", "if name == 'act':\n    while True: pass", "did not answer /act"),
    "fork bomb": ("import os", "while True: os.fork()", ""),
    "memory balloon": ("kept = []", "while True: kept.append(bytearray(2**24))", "out of memory"),
    "endless output": ("", "while True: print('x' * 10_000)", "did not answer"),
    "kills its server": ("import os", "os.kill(os.getpid(), 9)", "ended with exit code"),
    "kills everything": ("import os", "os.kill(-1, 9)", ""),
    "leaves when it is losing": (
        "import os\nsteps = []",
        "steps.append(1)\nif len(steps) > 30: os._exit(0)",
        "ended with",
    ),
}

REDIRECT = """
self.send_response(307)
self.send_header("Location", "http://127.0.0.1:8000/evaluate")
self.send_header("Content-Length", "0")
self.end_headers()
"""

# Servers of their own that misbehave in how they answer /act.
ANSWERS = {
    "huge body": ("head(10**9)\nwhile True: self.wfile.write(bytes(2**20))", "/act"),
    "slow drip": ("head(10**6)\nfor _ in range(99): self.wfile.write(b'x'); self.wfile.flush(); time.sleep(1)", "/act"),
    "redirect": (REDIRECT, "redirects"),
    "malformed": ("head(4); self.wfile.write(b'\\xc1\\xff\\x00\\x01')", "/act"),
    "deep json": ("head(200_000); self.wfile.write(b'[' * 100_000 + b']' * 100_000)", "/act"),
}  # fmt: skip

# What a policy finds when it looks around; it raises with what it could do.
LOOKS = {
    "writes": """
        for folder in ("/", "/etc", "/policy", "/opt", "/home", "/var/tmp", "/proc/sys", "/sys", "/run", "/root"):
            attempt(folder, lambda: open(folder + "/x", "w").write("x"))
        written = 0
        try:
            with open("/tmp/fill", "wb", buffering=0) as file:
                while written < 2**31:
                    written += file.write(bytes(2**20))
        except OSError:
            pass
        if written > 600 * 2**20:
            could.append(f"write {written} bytes")
        os.remove("/tmp/fill")
        os.makedirs("/tmp/bin", exist_ok=True)
        shutil.copy("/bin/true", "/tmp/bin/true")
        os.chmod("/tmp/bin/true", 0o755)
        attempt("run a program of its own", lambda: subprocess.run(["/tmp/bin/true"], check=True))
    """,
    "rights": """
        attempt("become root", lambda: os.setuid(0))
        attempt("mount", lambda: subprocess.run(["mount", "-t", "tmpfs", "x", "/tmp"], check=True, capture_output=True))
        attempt("make a device", lambda: os.mknod("/tmp/device", 0o600 | stat.S_IFBLK, os.makedev(8, 0)))
        attempt("a raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
        attempt("a packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))
        attempt("a new namespace", lambda: subprocess.run(["unshare", "-Ur", "true"], check=True, capture_output=True))
        attempt("a route", lambda: subprocess.run(["ip", "route", "add", "default", "dev", "eth0"], check=True))
        status = open("/proc/self/status").read()
        for line in ("CapEff:\\t0000000000000000", "CapBnd:\\t0000000000000000", "NoNewPrivs:\\t1", "Seccomp:\\t2"):
            if line not in status:
                could.append("have more than " + line)
    """,
    "secrets": """
        for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/host"):
            if os.path.exists(path):
                could.append("see " + path)
        attempt("read passwords", lambda: open("/etc/shadow").read())
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for name in ("environ", "cmdline"):
                try:
                    text = open(f"/proc/{pid}/{name}").read()
                except OSError:
                    continue
                for word in ("SECRET", "TOKEN", "API_KEY", "KINITRO", "PASSWORD", "hf_"):
                    if word in text:
                        could.append(f"read {word} in /proc/{pid}/{name}")
        mounts = open("/proc/mounts").read()
        if "/policy ext4 rw" in mounts or " /policy overlay rw" in mounts:
            could.append("write to its files")
    """,
    "network": """
        own = socket.gethostbyname(socket.gethostname())
        base, last = own.rsplit(".", 1)
        first = int(ipaddress.ip_address(own)) - 2
        targets = [(str(ipaddress.ip_address(first + n)), 8000) for n in range(16) if n != 2]
        around = [first + 16 * step for step in range(-8, 9) if step]
        targets += [(str(ipaddress.ip_address(a + n)), 8000) for a in around for n in (1, 2, 8)]
        hosts = [str(ipaddress.ip_address(first + 1)), "172.17.0.1"] + json.load(open("/policy/hosts.json"))
        ports = (22, 2375, 5432, 8000, json.load(open("/policy/port.json")))
        targets += [(host, port) for host in hosts for port in ports]
        targets += [("1.1.1.1", 443), ("8.8.8.8", 53), ("169.254.169.254", 80)]
        def reach(target):
            with socket.create_connection(target, 1.0):
                could.append(f"connect to {target}")
        def quietly(target):
            try:
                reach(target)
            except OSError:
                pass
        threads = [threading.Thread(target=quietly, args=(target,)) for target in targets]
        resolve = lambda: attempt("resolve", lambda: socket.getaddrinfo("example.com", 443))
        threads.append(threading.Thread(target=resolve))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        quietly_own = socket.create_connection((own, 8000), 1.0)  # the scan itself works
    """,
}

POLICY = """
{head}

class Policy:
    needs_images = False

    def reset(self, task, seed):
        self.run("reset")

    def act(self, obs, state):
        self.run("act")
        return {{"continuous": {{"ee_twist": [0.0] * 6}}}}

    def run(self, name):
        if name == "act" or {in_reset}:
{body}
"""

LOOKER = """
import ipaddress, json, os, shutil, socket, stat, subprocess, sys, threading

def look():
    could = []
    def attempt(what, work):
        try:
            work()
        except Exception:
            return
        could.append(what)
{body}
    return could
"""

RAW_SERVER = """
import json, sys, time, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer({"status": "healthy", "model_loaded": True, "uptime_seconds": 0.0, "needs_images": False})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/reset":
            return self.answer({"status": "ok", "episode_id": str(uuid.uuid4())})
        def head(length):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(length))
            self.end_headers()
#ACT#

    def answer(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass

ThreadingHTTPServer((sys.argv[2], int(sys.argv[4])), Handler).serve_forever()
"""


@pytest.fixture
def add(tmp_path: Path, store) -> Callable[..., PolicyRef]:
    def add(name: str, **files: str) -> PolicyRef:
        name = name.replace(" ", "-")
        folder = tmp_path / "policies" / name
        folder.mkdir(parents=True)
        (folder / "server.py").write_text(Path(policy_server.__file__).read_text())
        for stem, text in files.items():
            (folder / stem.replace("__", ".")).write_text(text)
        return store.add_local(folder, f"tests/{name}")

    return add


def policy_of(head: str, body: str) -> str:
    indented = textwrap.indent(textwrap.dedent(body) or "pass", " " * 12)
    return POLICY.format(head=head, body=indented, in_reset="reset" in body)


def is_ours(result: ResultIn) -> bool:
    return result.error_kind is ErrorKind.INFRASTRUCTURE


@asynccontextmanager
async def host_service() -> AsyncIterator[tuple[int, list[str]]]:
    """A careless service of this host, on all its addresses: its port, and who called."""
    callers: list[str] = []

    def called(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(writer.get_extra_info("peername")[0])
        writer.close()

    server = await asyncio.start_server(called, "0.0.0.0", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], callers


@pytest.mark.timeout(400)
async def test_policies_that_break_down_or_answer_badly_fail_and_harm_nobody(api, add, run_executor) -> None:
    expected = {}
    for name, (head, body, words) in BEHAVES.items():
        (task,) = api.add(add(name, policy__py=policy_of(head, body)), env_id=ENV_ID)
        expected[name] = (task, words)
    for name, (act, words) in ANSWERS.items():
        text = RAW_SERVER.replace("#ACT#", textwrap.indent(act, " " * 8))
        (task,) = api.add(add(name, server__py=text), env_id=ENV_ID)
        expected[name] = (task, words)
    honest = api.add(add("honest", policy__py=policy_of("", "")), 2, env_id=ENV_ID)
    wanted = {task for task, _ in expected.values()} | set(honest)
    limits = {"miner_deployment_memory": "300m", "miner_deployment_cpu": 0.5, "action_timeout": 3.0}
    async with run_executor(max_timesteps=60, miner_deployment_warmup_timeout=8.0, max_concurrent=3, **limits):
        # A wait in which this machine stood still is nobody's fault, and runs again.
        await until(lambda: wanted <= {task for task, found in api.results.items() if not is_ours(found)}, 300)
    for name, (task, words) in expected.items():
        result = api.results[task]
        assert (result.error_kind, result.success) == (ErrorKind.POLICY, False), (name, result.error)
        assert words in result.error, name
    assert [api.results[task].error for task in honest] == [None, None]
    assert left_over() == []


@pytest.mark.timeout(300)
async def test_a_policy_that_looks_around_finds_nothing(api, add, run_executor) -> None:
    tasks = {}
    async with host_service() as (port, callers):
        from kinitro.backends.docker.isolation import host_addresses

        for name, body in LOOKS.items():
            text = LOOKER.format(body=textwrap.indent(textwrap.dedent(body), " " * 4))
            report = "import looker\nraise RuntimeError('could: ' + repr(looker.look()))"
            files = {"looker__py": text, "policy__py": policy_of("", report)}
            files |= {"port__json": str(port), "hosts__json": str(host_addresses([])).replace("'", '"')}
            (tasks[name],) = api.add(add(name, **files), env_id=ENV_ID)
        idle = api.add(add("neighbour", policy__py=policy_of("", "")), 1, env_id=ENV_ID)
        async with run_executor(max_timesteps=100, max_concurrent=2, action_timeout=20.0):
            await until(lambda: {*tasks.values(), *idle} <= set(api.results), 200)
    for name, task in tasks.items():
        assert api.results[task].error_kind is ErrorKind.POLICY
        assert "could: []" in api.results[task].error, (name, api.results[task].error)
    assert callers == []

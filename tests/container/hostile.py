"""Policies that attack, as data. Whatever they raise comes back to us as the episode's error."""

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """Files of a policy folder, and words that its episode's error must hold."""

    files: dict[str, str]
    words: str


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


def policy_of(head: str, body: str) -> str:
    """A policy.py that runs `body` in each act, or where it says itself that it is for reset."""
    indented = textwrap.indent(textwrap.dedent(body) or "pass", " " * 12)
    return POLICY.format(head=head, body=indented, in_reset="reset" in body)


def _behaves(head: str, body: str, words: str) -> Case:
    return Case({"policy.py": policy_of(head, body)}, words)


BEHAVES = {
    "endless import": _behaves("while True: pass", "", "Miner deployment not ready"),
    "endless reset": _behaves("", "if name == 'reset':\n    while True: pass", "did not answer /reset"),
    "endless act": _behaves("", "if name == 'act':\n    while True: pass", "did not answer /act"),
    "fork bomb": _behaves("import os", "while True: os.fork()", ""),
    "memory balloon": _behaves("kept = []", "while True: kept.append(bytearray(2**24))", "out of memory"),
    # What a 100 GB disk would take in ten minutes, as long as we let it.
    "endless output": _behaves(
        "import os\nlines = b'x\\n' * 2**15", "while True: os.write(1, lines)", "did not answer"
    ),
    "floods its output beside its work": _behaves(
        """
import os, threading, time
def flood():
    while True: os.write(1, b'x\\n' * 2**15)
threading.Thread(target=flood, daemon=True).start()
        """.strip(),
        "time.sleep(0.5)",
        "it went on writing more than 1000 lines",
    ),
    "kills its server": _behaves("import os", "os.kill(os.getpid(), 9)", "ended with exit code"),
    "kills everything": _behaves("import os", "os.kill(-1, 9)", ""),
    "leaves when it is losing": _behaves(
        "import os\nsteps = []", "steps.append(1)\nif len(steps) == 59: os._exit(0)", "ended with exit code 0"
    ),
}

IDNA = "946d195a0d259cbba61165e88e65941f16e9b36ea6ddb97f00452bae8b1287d3"
DOCOPT = "49b3a825280bd66b3aa83585ef59c4a8c82f2c8a522dbe754a8bc8d08c85c491"  # has no wheel


def _asks_for(requirements: str, words: str) -> Case:
    return Case({"policy.py": policy_of("", ""), "requirements.txt": requirements}, words)


REQUIREMENTS = {
    "requirement by address": _asks_for("https://example.com/x-1.0-py3-none-any.whl\n", "names a place"),
    "requirement from a repo": _asks_for("idna @ git+https://example.com/x\n", "names a place"),
    "requirement with an option": _asks_for("--index-url https://example.com/simple\nidna==3.10\n", "is an option"),
    "requirement without a hash": _asks_for("idna==3.10\n", "has no hash"),
    "requirement with another hash": _asks_for(f"idna==3.10 --hash=sha256:{'0' * 64}\n", "pip can't install"),
    "requirement of source only": _asks_for(f"docopt==0.6.2 --hash=sha256:{DOCOPT}\n", "pip can't install"),
}

RAW_SERVER = """
import http.client, json, socket, struct, sys, threading, time, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        formats = ["json", "msgpack"] if "#KIND#" == "msgpack" else ["json"]
        health = {"status": "healthy", "model_loaded": True, "uptime_seconds": 0.0, "needs_images": False}
        self.answer(json.dumps(health | {"formats": formats}).encode(), "json")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/reset":
            reset = {"status": "ok", "episode_id": str(uuid.uuid4())}
            return self.answer(json.dumps(reset).encode(), "json")
        def head(length):
            self.send_response(200)
            self.send_header("Content-Type", "application/#KIND#")
            self.send_header("Content-Length", str(length))
            self.end_headers()
#ACT#

    def answer(self, data, kind, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "application/" + kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 128

Server((sys.argv[2], int(sys.argv[4])), Handler).serve_forever()
"""


def _answers(act: str, words: str, kind: str = "json") -> Case:
    indented = textwrap.indent(textwrap.dedent(act), " " * 8)
    return Case({"server.py": RAW_SERVER.replace("#ACT#", indented).replace("#KIND#", kind)}, words)


# Servers of their own that misbehave in how they answer /act.
ANSWERS = {
    "huge body": _answers("head(10**9)\nwhile True: self.wfile.write(bytes(2**20))", "larger than"),
    "huge body in chunks": _answers(
        """
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True: self.wfile.write(b"100000\\r\\n" + bytes(2**20) + b"\\r\\n")
        """,
        "/act",
    ),
    "slow drip": _answers(
        "head(10**6)\nfor _ in range(99): self.wfile.write(b'x'); self.wfile.flush(); time.sleep(0.5)",
        "did not answer /act",
    ),
    # To where it was called from: the only address of an environment server that a policy ever learns.
    "redirect": _answers(
        """
        self.send_response(307)
        self.send_header("Location", f"http://{self.client_address[0]}:8000/evaluate")
        self.send_header("Content-Length", "0")
        self.end_headers()
        """,
        "redirects are not followed",
    ),
    "malformed json": _answers("head(4); self.wfile.write(b'{\\xff\\x00}')", "/act"),
    "malformed msgpack": _answers("head(4); self.wfile.write(b'\\xc1\\xff\\x00\\x01')", "/act", "msgpack"),
    "msgpack that claims much": _answers(
        "bomb = b'\\x81\\xa6action\\xdf' + struct.pack('>I', 2**32 - 1)\nhead(len(bomb)); self.wfile.write(bomb)",
        "/act",
        "msgpack",
    ),
    "deep json": _answers("head(200_000); self.wfile.write(b'[' * 100_000 + b']' * 100_000)", "/act"),
    "deep msgpack": _answers("head(100_001); self.wfile.write(b'\\x91' * 100_000 + b'\\xc0')", "/act", "msgpack"),
    # Calls whoever calls it, on many ports (in the time that it has), and asks for an episode of its own.
    "calls the environment server back": _answers(
        """
        could, there = [], self.client_address[0]
        def reach(port):
            try:
                socket.create_connection((there, port), 0.5).close()
                could.append(port)
            except OSError:
                pass
        for first in range(1, 2**16, 512):
            many = [threading.Thread(target=reach, args=(port,)) for port in range(first, min(first + 512, 2**16), 4)]
            [one.start() for one in many], [one.join() for one in many]
            if first > 10_000: break
        for port in (80, 8000, 8080):
            try:
                there_is = http.client.HTTPConnection(there, port, timeout=0.5)
                there_is.request("POST", "/evaluate", json.dumps({"env_id": "metaworld/reach-v3"}))
                could.append(f"evaluate: {there_is.getresponse().status}")
            except OSError:
                pass
        self.answer(f"could reach: {could}".encode(), "json", 500)
        """,
        "could reach: []",
    ),
}

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

# What a policy finds when it looks around; it raises with what it could do.
_LOOKS = {
    "writes": """
        places = {line.split()[1] for line in open("/proc/mounts")}
        for root, folders, _ in os.walk("/"):
            folders[:] = [name for name in folders if os.path.join(root, name) not in ("/proc", "/sys")]
            places.update(os.path.join(root, name) for name in folders)
        def works(folder):
            try:
                open(folder + "/x", "w").close()
                os.remove(folder + "/x")
                return True
            except OSError:
                return False
        writable = {os.path.realpath(one) for one in places if works(one)}
        for folder in writable - {"/tmp", "/dev/shm"}:
            could.append("write into " + folder)
        written = 0
        for folder in ("/tmp", "/dev/shm"):
            try:
                with open(folder + "/fill", "wb", buffering=0) as file:
                    while written < 2**31:
                        written += file.write(bytes(2**20))
            except OSError:
                pass
        if written > 600 * 2**20:
            could.append(f"write {written} bytes")
        for folder in ("/tmp", "/dev/shm"):
            os.remove(folder + "/fill")
        shutil.copy("/bin/true", "/tmp/true")
        os.chmod("/tmp/true", 0o755)
        attempt("run a program of its own", lambda: subprocess.run(["/tmp/true"], check=True))
    """,
    "rights": """
        attempt("become root", lambda: os.setuid(0))
        attempt("mount", lambda: subprocess.run(["mount", "-t", "tmpfs", "x", "/tmp"], check=True, capture_output=True))
        attempt("make a device", lambda: os.mknod("/tmp/device", 0o600 | stat.S_IFBLK, os.makedev(8, 0)))
        attempt("a raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
        attempt("a packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))
        attempt("a new namespace", lambda: subprocess.run(["unshare", "-Ur", "true"], check=True, capture_output=True))
        attempt("a route", lambda: subprocess.run(["ip", "route", "add", "default", "dev", "eth0"], check=True))
        attempt("the kernel's log", lambda: open("/dev/kmsg").read(1))
        attempt("trace another", lambda: open("/proc/1/mem", "rb").read(1))
        attempt("a kernel setting", lambda: open("/proc/sys/kernel/core_pattern", "w").write("|/tmp/x"))
        status = open("/proc/self/status").read()
        for line in ("CapEff:\\t0000000000000000", "CapBnd:\\t0000000000000000", "NoNewPrivs:\\t1", "Seccomp:\\t2"):
            if line not in status:
                could.append("have more than " + line)
    """,
    "secrets": """
        canary = "".join(reversed(json.load(open("/policy/canary.json"))))
        for root, folders, names in os.walk("/"):
            folders[:] = [name for name in folders if os.path.join(root, name) not in ("/proc", "/sys", "/usr", "/opt")]
            for path in (os.path.join(root, name) for name in names):
                kind = os.lstat(path).st_mode
                if stat.S_ISSOCK(kind) or stat.S_ISBLK(kind):
                    could.append("see " + path)
                try:
                    if stat.S_ISREG(kind) and canary in open(path, errors="replace").read(2**22):
                        could.append("read the token in " + path)
                except OSError:
                    pass
        for path in ("/host", "/app/env.py", "/opt/kinitro", json.load(open("/policy/home.json"))):
            if os.path.exists(path):
                could.append("see " + path)
        attempt("read passwords", lambda: open("/etc/shadow").read())
        lines = open("/proc/net/unix").read().splitlines()[1:]
        if named := [line for line in lines if len(line.split()) > 7]:
            could.append(f"see sockets: {named}")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for name in ("environ", "cmdline"):
                try:
                    text = open(f"/proc/{pid}/{name}").read()
                except OSError:
                    continue
                for word in ("SECRET", "TOKEN", "API_KEY", "KINITRO", "PASSWORD", canary):
                    if word in text:
                        could.append(f"read {word} in /proc/{pid}/{name}")
        if any(" /policy " in line and " rw," in line for line in open("/proc/mounts")):
            could.append("write to its files")
    """,
    "network": """
        own = socket.gethostbyname(socket.gethostname())
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
        def resolve(name):
            attempt("resolve " + name, lambda: socket.getaddrinfo(name, 443))
        threads += [threading.Thread(target=resolve, args=(name,)) for name in ("example.com", "huggingface.co")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        quietly_own = socket.create_connection((own, 8000), 1.0)  # the scan itself works
    """,
}
LOOKS = {
    name: Case(
        {
            "looker.py": LOOKER.format(body=textwrap.indent(textwrap.dedent(body), " " * 4)),
            "policy.py": policy_of("", "import looker\nraise RuntimeError('could: ' + repr(looker.look()))"),
        },
        "could: []",
    )
    for name, body in _LOOKS.items()
}

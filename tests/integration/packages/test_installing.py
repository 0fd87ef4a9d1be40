"""Whose fault it is that packages can't be installed: by what the index does, never by what pip says about it."""

import hashlib
import io
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kinitro.backends import installing
from kinitro.backends.installing import PROBE, Ending, install
from kinitro.backends.wheels import problem
from kinitro.errors import InfrastructureError, PolicyError

NETWORK_WORDS = ("SSLError", "ReadTimeout", "ConnectTimeout", "NewConnectionError")


class Index:
    """A package index. `broken` says for how many requests a path that starts so is answered by 503; -1 for ever."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.broken: dict[str, int] = {}
        self.asked: list[str] = []

    def add(self, name: str, content: str | bytes = "WORD = 1\n") -> str:
        """Publishes version 1.0 of a package and returns the line that asks for it."""
        file = f"{name}-1.0-py3-none-any.whl"
        wheel = _wheel(name, content)
        self.files |= {f"/files/{file}": wheel, f"/simple/{name}/": f'<a href="/files/{file}">{file}</a>'.encode()}
        return f"{name}==1.0 --hash=sha256:{hashlib.sha256(wheel).hexdigest()}"

    def answer(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        for start, left in self.broken.items():
            if path.startswith(start) and left:
                self.broken[start] = left - 1
                return 503, b""
        return (200, self.files[path]) if path in self.files else (404, b"")


def _wheel(name: str, content: str | bytes) -> bytes:
    buffer = io.BytesIO()
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(f"{name}.py", content)
        packed.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        packed.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{about}/RECORD", f"{name}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has pip, as the runner image's does and that of these tests does not."""
    folder = tmp_path_factory.mktemp("image")
    venv.create(folder, with_pip=True, symlinks=True)
    return folder / "bin/python"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, python: Path) -> Iterator[Index]:
    index = Index()
    index.add(PROBE)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = index.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/zip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    for variable in ("PIP_FIND_LINKS", "PIP_DEFAULT_TIMEOUT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(installing, "_LOOK_S", 0.02)
    yield index
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_asked_for_is_installed_and_nothing_else_is_left(index, target) -> None:
    line = index.add("grasp")
    assert install(line.encode(), target).ending is Ending.INSTALLED
    assert names(target) == {"grasp.py", "grasp-1.0.dist-info"}
    assert not any(PROBE in path for path in index.asked)


@pytest.mark.parametrize("name", NETWORK_WORDS)
def test_a_package_that_is_called_like_a_networks_failure_is_the_policys_fault(index, target, name) -> None:
    outcome = install(f"{name}==1.0 --hash=sha256:{'0' * 64}".encode(), target)
    assert outcome.ending is Ending.REFUSED
    assert name in outcome.said
    assert isinstance(problem(outcome.ending, outcome.said), PolicyError)


@pytest.mark.parametrize("broken", ["/", f"/simple/{PROBE}", f"/files/{PROBE}"])
def test_an_index_that_gives_nobody_anything_is_our_fault(index, target, broken) -> None:
    index.broken[broken] = -1
    outcome = install(f"grasp==1.0 --hash=sha256:{'0' * 64}".encode(), target)
    found = problem(outcome.ending, outcome.said)
    assert isinstance(found, InfrastructureError)
    assert found.code == "requirements_network"


def test_an_index_that_is_away_is_our_fault(index, target, monkeypatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple/")
    assert install(index.add("grasp").encode(), target).ending is Ending.NO_INDEX


def test_an_index_that_never_answers_is_our_fault(index, target, monkeypatch) -> None:
    monkeypatch.setattr(installing, "TIMEOUT_S", 0.0)
    monkeypatch.setattr(installing, "INDEX_TIMEOUT_S", 0.0)
    outcome = install(index.add("grasp").encode(), target)
    assert outcome.ending is Ending.NO_INDEX
    assert "within 0 s" in outcome.said


def test_what_the_index_fails_to_give_this_policy_alone_is_the_policys_fault(index, target) -> None:
    line = index.add("grasp")
    index.broken["/files/grasp"] = -1
    assert install(line.encode(), target).ending is Ending.REFUSED


def test_what_was_broken_for_a_moment_is_tried_once_more(index, target) -> None:
    whole, broken = index.add("whole"), index.add("grasp")
    index.broken["/files/grasp"] = 1
    assert install(f"{whole}\n{broken}".encode(), target).ending is Ending.INSTALLED
    assert {"whole.py", "grasp.py"} <= names(target)


def test_too_slow_is_the_policys_fault_while_the_index_answers(index, target, monkeypatch) -> None:
    monkeypatch.setattr(installing, "TIMEOUT_S", 0.0)
    assert install(index.add("grasp").encode(), target).ending is Ending.TOO_SLOW


@pytest.mark.parametrize("limit", [20_000, 60_000])
def test_too_large_is_the_policys_fault_while_it_grows_and_at_the_end(index, target, monkeypatch, limit) -> None:
    monkeypatch.setattr(installing, "MAX_BYTES", limit)
    outcome = install(index.add("grasp", "#" * 100_000).encode(), target)
    assert outcome.ending is Ending.TOO_LARGE
    assert isinstance(problem(outcome.ending, outcome.said), PolicyError)


def test_empty_files_take_space_too_and_depth_is_no_way_out(target) -> None:
    deep = target
    for _ in range(1500):
        deep /= "d"
    subprocess.run(["mkdir", "-p", str(deep)], check=True)
    assert installing._size(target) == 1500 * 4096
    installing._clear(target)
    assert names(target) == set()


def test_pips_temporary_files_are_where_the_packages_are(index, target, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    assert install(index.add("grasp").encode(), target).ending is Ending.INSTALLED


@pytest.mark.parametrize("asked", ["right", "SSLError"])
def test_as_a_program_it_says_by_its_exit_code_whose_fault_it_is(index, target, python, asked) -> None:
    line = index.add("grasp") if asked == "right" else f"{asked}==1.0 --hash=sha256:{'0' * 64}"
    # More than one argument of a command may hold, and what a policy leaves in the working directory is not imported.
    wanted = target / "requirements.txt"
    wanted.write_text(line + "".join(f" --hash=sha256:{number:064x}" for number in range(2000)))
    (target / "subprocess.py").write_text("raise SystemExit(0)")
    program = Path(installing.__file__).read_text()
    command = [python, "-I", "-c", program, target, wanted]
    ended = subprocess.run(command, cwd=target, capture_output=True, text=True, check=False)
    assert Ending(ended.returncode) is (Ending.INSTALLED if asked == "right" else Ending.REFUSED), ended
    if asked == "right":
        assert names(target) == {"grasp.py", "grasp-1.0.dist-info"}


def test_a_disk_that_can_not_be_used_is_our_fault(tmp_path, python) -> None:
    program = Path(installing.__file__).read_text()
    command = [python, "-I", "-c", program, tmp_path / "nowhere", tmp_path / "none"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    found = problem(Ending(ended.returncode), ended.stdout)
    assert isinstance(found, InfrastructureError)
    assert found.code == "requirements_disk"

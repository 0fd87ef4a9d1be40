"""A policy's own packages: installed from hashed wheels while there is a network and none of its code, or refused."""

import pytest

from kinitro.backends.base import LaunchSpec, Limits, Role
from kinitro.backends.docker import dependencies
from kinitro.backends.docker.container import hardened
from kinitro.backends.docker.dependencies import _ending
from kinitro.errors import InfrastructureError, PolicyError
from kinitro.testing.backend_suite import until_answering

from .conftest import RUNNER, docker

IDNA = "idna==3.10 --hash=sha256:946d195a0d259cbba61165e88e65941f16e9b36ea6ddb97f00452bae8b1287d3"
WRONG = "idna==3.10 --hash=sha256:" + "0" * 64
SOURCE_ONLY = "docopt==0.6.2 --hash=sha256:49b3a825280bd66b3aa83585ef59c4a8c82f2c8a522dbe754a8bc8d08c85c491"
ABSENT = "no-such-package-of-kinitro==1.0 --hash=sha256:" + "1" * 64
LIKE_A_FAILURE = "SSLError==1.0 --hash=sha256:" + "0" * 64
SERVER = """
import http.server, json, sys
import idna
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({"idna": idna.__version__, "file": idna.__file__}).encode())
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


@pytest.fixture
def spec(tmp_path):
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "server.py").write_text(SERVER)
    command = ("python", "server.py", "{host}", "{port}")
    return lambda *lines: LaunchSpec(
        "The policy", Role.POLICY, command, folder, limits=Limits(memory_bytes=2**30, cpus=1.0), requirements=lines
    )


@pytest.fixture(autouse=True)
def no_packages_are_left(settings):
    yield
    for volume in docker("volume", "ls", "-q", "--filter", f"name=kinitro-deps-{settings.home}").split():
        docker("volume", "rm", volume)


async def test_what_was_committed_comes_before_the_images_own_and_is_installed_once(backend, spec) -> None:
    own = docker("run", "--rm", RUNNER, "python", "-c", "import idna; print(idna.__version__, idna.__file__)").split()
    assert own[0] != "3.10"
    assert own[1].startswith("/opt/venv/")
    first = await backend.launch(spec(IDNA))
    answer = await until_answering(first)
    assert (answer["idna"], answer["file"]) == ("3.10", "/deps/idna/__init__.py")
    before = docker("volume", "ls", "-q")
    await until_answering(await backend.launch(spec(IDNA)))
    assert [one for one in docker("volume", "ls", "-q").split() if "deps" in one] == [
        one for one in before.split() if "deps" in one
    ]


@pytest.mark.parametrize("line", [WRONG, SOURCE_ONLY, ABSENT, LIKE_A_FAILURE])
async def test_what_can_not_be_installed_as_committed_is_the_policys_fault(backend, spec, line) -> None:
    with pytest.raises(PolicyError, match="pip can't install them") as refused:
        await backend.launch(spec(line))
    assert refused.value.code == "requirements_failed"


async def test_an_index_that_can_not_be_reached_is_our_fault(backend, spec, monkeypatch) -> None:
    make_network, impatient = backend._make_network, {"PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "2"}
    monkeypatch.setattr(backend, "_make_network", lambda kind, **_: make_network(kind, internal=True))
    monkeypatch.setattr(dependencies, "hardened", lambda spec, extra: hardened(spec, extra | impatient))
    with pytest.raises(InfrastructureError, match="package index") as caught:
        await backend.launch(spec(IDNA))
    assert caught.value.code == "requirements_network"


async def test_requirements_may_be_as_long_as_they_are_taken(backend, spec) -> None:
    hashes = [f"--hash=sha256:{number:064x}" for number in range(12_000)]  # just below 1 MiB
    await until_answering(await backend.launch(spec(" ".join([IDNA, *hashes]))))


async def test_an_installation_that_somebody_ends_is_our_fault(backend, spec, monkeypatch) -> None:
    def killed_at_once(container):
        container.kill()
        container.wait()
        container.reload()
        return _ending(container)

    monkeypatch.setattr(dependencies, "_ending", killed_at_once)
    with pytest.raises(InfrastructureError, match="was killed") as caught:
        await backend.launch(spec(IDNA))
    assert caught.value.code == "installer_killed"

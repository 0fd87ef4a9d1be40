# ruff: noqa: ASYNC210 - a few calls of a local server
"""What a policy's pod does and what it keeps to itself."""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
import venv
import zipfile
from contextlib import suppress
from functools import partialmethod
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr

from kinitro.backends.base import LaunchSpec, Limits, Role, Running, Source
from kinitro.backends.basilica import BasilicaBackend
from kinitro.backends.basilica.protocol import CONFIG_VARIABLE, SECRET_VARIABLE, STATE_PATH, TOKEN_VARIABLE, PodConfig
from kinitro.backends.installing import INDEX_TIMEOUT_S, PROBE, TIMEOUT_S
from kinitro.deployments.hub import HuggingFaceHub
from kinitro.deployments.limits import HubLimits
from kinitro.deployments.pod import pod_program
from kinitro.deployments.pod.download import download
from kinitro.deployments.readiness import until_ready
from kinitro.deployments.trees import full_digest
from kinitro.errors import InfrastructureError, PolicyError
from kinitro.policy.client import PolicyClient
from kinitro.testing.hub import HubFault
from kinitro.types import PolicyRef

from .conftest import READ_TOKEN, changed

COMMAND = ("python", "server.py", "--host", "{host}", "--port", "{port}")


async def spec_of(ref, tmp_path: Path, **changes) -> LaunchSpec:
    """What the executor asks for, after it has fetched the snapshot itself."""
    folder = tmp_path / f"seen-{ref.revision}"
    folder.mkdir()
    await HuggingFaceHub(SecretStr(READ_TOKEN)).fetch(ref, folder)
    source = Source(ref.repo, ref.revision, full_digest(folder))
    chosen = {"limits": Limits(memory_bytes=4 * 2**30, cpus=1.5), "source": source} | changes
    return LaunchSpec(f"The policy {ref.repo}", Role.POLICY, COMMAND, folder, **chosen)


@pytest.fixture
async def backend(settings, model_hub):
    with_hub = changed(settings, hub=os.environ["HF_ENDPOINT"], hub_token=SecretStr(READ_TOKEN))
    reader = HuggingFaceHub(SecretStr(READ_TOKEN))
    asks = changed(with_hub, confirm=lambda source: reader.confirm(PolicyRef(source.repo, source.revision)))
    async with BasilicaBackend(asks) as backend:
        yield backend


def text_of(running: Running) -> str:
    """What the policy answers to GET /health."""
    answer = httpx.get(f"{running.url}/health", headers={"Authorization": str(running.authorization)}, timeout=10)
    return answer.text


async def test_a_deployment_has_what_the_settings_ask_for(backend, basilica, upload, tmp_path) -> None:
    running = await backend.launch(await spec_of(upload(), tmp_path))
    (pod,) = basilica.every
    assert pod.asked["resources"] == {"cpu": "1500m", "memory": "4096Mi"}
    assert pod.asked["port"] == 8000
    assert pod.asked["ttlSeconds"] == 2880
    assert len(pod.name) <= 63
    assert pod.name.replace("-", "").isalnum()
    assert (await until_ready(running, 20)).model_loaded


async def test_a_gpu_is_asked_for_with_its_memory(settings, basilica, tmp_path) -> None:
    async with BasilicaBackend(changed(settings, min_gpu_memory_gb=24)) as backend:
        (tmp_path / "server.py").write_text("import time; time.sleep(60)")
        await backend.launch(LaunchSpec("gpu", Role.POLICY, COMMAND, tmp_path / ".", limits=Limits(gpus=1)))
    assert basilica.every[0].asked["resources"]["gpus"] == {"count": 1, "model": [], "minGpuMemoryGb": 24}


async def test_only_who_has_the_secret_is_answered_and_the_policy_never_sees_it(backend, upload, tmp_path) -> None:
    behaviour = """
        parse = BaseHTTPRequestHandler.parse_request
        def noting(handler):
            done = parse(handler)
            HEALTH["headers"] = dict(handler.headers)
            return done
        BaseHTTPRequestHandler.parse_request = noting
    """
    running = await backend.launch(await spec_of(upload(behaviour), tmp_path))
    await until_ready(running, 20)
    secret = str(running.authorization)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": secret + "x"}):
        for path in ("/health", STATE_PATH):
            assert httpx.get(running.url + path, headers=headers).status_code == 401
    assert secret.removeprefix("Bearer ") not in text_of(running)
    other = await backend.launch(await spec_of(upload("", "other"), tmp_path))
    assert other.authorization != secret
    assert httpx.get(f"{other.url}/health", headers={"Authorization": secret}).status_code == 401


TELLS = """
import pathlib

def tell():
    me, parent = os.getpid(), os.getppid()
    found = {"environment": dict(os.environ), "headers": []}
    for name in ("environ", "cmdline"):
        try:
            found["parent-" + name] = pathlib.Path(f"/proc/{parent}/{name}").read_bytes().decode(errors="replace")
        except OSError as error:
            found["parent-" + name] = type(error).__name__
    return found

HEALTH["told"] = tell()
"""


async def test_the_token_downloads_a_private_repo_and_is_gone_before_the_policy_runs(
    backend, basilica, model_hub, upload, tmp_path
) -> None:
    running = await backend.launch(await spec_of(upload(TELLS, private=True), tmp_path))
    await until_ready(running, 20)
    (pod,) = basilica.every
    assert pod.asked["env"][TOKEN_VARIABLE] == READ_TOKEN, "the pod does get it"
    told = text_of(running)
    assert READ_TOKEN not in told
    assert str(running.authorization).removeprefix("Bearer ") not in json.dumps(json.loads(told)["told"]["environment"])
    pid = int(pod.running.identity.partition("@")[0])
    for process in descendants(pid):
        assert READ_TOKEN.encode() not in memory_of(process), (
            "nor is it left anywhere in the front's or policy's memory"
        )


def descendants(pid: int) -> list[int]:
    """A process and what it started."""
    every = {int(entry.name): entry for entry in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for one in found:
        for other, entry in every.items():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == one:
                found.append(other)
    return found


def memory_of(pid: int) -> bytes:
    """All that a process can write, and its environment."""
    found = [Path(f"/proc/{pid}/environ").read_bytes()]
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights, *_ = line.split()
            begin, end = (int(part, 16) for part in place.split("-"))
            if rights.startswith("rw"):
                try:
                    memory.seek(begin)
                    found.append(memory.read(end - begin))
                except (OSError, ValueError, OverflowError):
                    continue
    return b"".join(found)


@pytest.mark.skipif(sys.platform != "linux", reason="pods are Linux containers")
def test_a_policy_can_read_neither_the_fronts_environment_nor_its_memory(tmp_path) -> None:
    """As in the runner image: an ordinary user, for whom the front's memory would be open otherwise."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    folder = tmp_path / "policy"
    folder.mkdir()
    source = """
        import os, sys
        for name in ("environ", "mem"):
            try:
                open(f"/proc/{os.getppid()}/{name}", "rb").read(1)
                print(name, "READ", flush=True)
            except OSError as error:
                print(name, type(error).__name__, flush=True)
        import time; time.sleep(60)
    """
    (folder / "server.py").write_text(textwrap.dedent(source))
    archive = tmp_path / "pod.pyz"
    archive.write_bytes(pod_program(folder))
    archive.chmod(0o644)
    config = PodConfig(command=("/usr/bin/python3", "server.py"))
    lowered = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if os.getuid() == 0 else ()
    with (tmp_path / "output").open("w") as output:
        pod = subprocess.Popen(
            [*lowered, "/usr/bin/python3", "-I", str(archive)],
            env={"PATH": os.environ["PATH"], "PORT": "0", CONFIG_VARIABLE: config.text(), SECRET_VARIABLE: "s"},
            stdout=output,
            stderr=output,
        )
    try:
        end = time.monotonic() + 20
        while (said := (tmp_path / "output").read_text()).count("\n") < 2 and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        pod.terminate()
        pod.wait(10)
    assert said.splitlines() == ["environ PermissionError", "mem PermissionError"]


async def test_other_files_than_the_executor_has_seen_are_never_run(backend, upload, tmp_path) -> None:
    spec = await spec_of(upload(), tmp_path)
    other = Source(spec.source.repo, spec.source.revision, "0" * 64)
    with pytest.raises(InfrastructureError, match="other files") as caught:
        await backend.launch(changed(spec, source=other))
    assert caught.value.code == "snapshot_differs"


async def test_a_hub_that_fails_the_pod_is_our_fault_and_leaves_no_deployment(
    backend, basilica, model_hub, upload, tmp_path
) -> None:
    spec = await spec_of(upload(), tmp_path)
    model_hub.faults.append(HubFault(403, "/resolve/", method="GET"))
    with pytest.raises(InfrastructureError, match="403") as caught:
        await backend.launch(spec)
    assert caught.value.code == "hub_refused"
    assert basilica.alive == {}
    with pytest.raises(InfrastructureError, match=r"403.*No other deployment is made for it within") as again:
        await backend.launch(spec)
    assert again.value.code == "hub_refused"
    assert len(basilica.every) == 1, "it is not paid for twice in a row"
    model_hub.faults.clear()
    await backend.launch(await spec_of(upload("", "other"), tmp_path))


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (HubFault(404, "/revision/", code="RepoNotFound"), "snapshot_missing"),
        (HubFault(401, "/revision/"), "snapshot_private"),
        (HubFault(403, "/resolve/", code="GatedRepo"), "snapshot_private"),
    ],
    ids=["deleted", "private", "gated"],
)
async def test_a_repo_that_its_author_took_away_since_is_the_policys_fault_and_costs_no_deployment(
    backend, basilica, model_hub, upload, tmp_path, fault, code
) -> None:
    spec = await spec_of(upload(), tmp_path)
    model_hub.faults.append(fault)
    with pytest.raises(PolicyError) as caught:
        await backend.launch(spec)
    assert caught.value.code == code
    assert basilica.every == []


async def test_a_repo_that_is_taken_away_while_its_pod_starts_is_the_policys_fault(
    settings, basilica, model_hub, upload, tmp_path
) -> None:
    spec, reader = await spec_of(upload(), tmp_path), HuggingFaceHub(SecretStr(READ_TOKEN))

    async def confirm(source: Source) -> None:
        await reader.confirm(PolicyRef(source.repo, source.revision))
        model_hub.faults.append(HubFault(404, "/api/models/", code="RepoNotFound"))

    async with BasilicaBackend(changed(settings, hub=os.environ["HF_ENDPOINT"], confirm=confirm)) as backend:
        with pytest.raises(PolicyError) as caught:
            await backend.launch(spec)
    assert caught.value.code == "snapshot_missing"


async def test_a_pod_may_take_the_time_for_its_files_and_packages_besides_that_for_its_start(
    settings, basilica, model_hub, upload, tmp_path
) -> None:
    spec = await spec_of(upload(), tmp_path)
    model_hub.faults.append(HubFault(None, "/resolve/", method="GET", delay_s=4.0))
    with_hub = changed(settings, hub=os.environ["HF_ENDPOINT"], hub_token=SecretStr(READ_TOKEN), start_s=3.0)
    assert with_hub.download_s > PodConfig.download_s
    assert with_hub.install_s >= TIMEOUT_S + INDEX_TIMEOUT_S
    async with BasilicaBackend(with_hub) as backend:
        await backend.launch(spec)


@pytest.mark.parametrize(("carried", "family"), [(100_000, InfrastructureError), (40_000, PolicyError)])
async def test_a_slow_download_in_a_pod_is_judged_by_what_came_as_everywhere(
    carried, family, model_hub, upload, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(HubLimits, "__init__", partialmethod(HubLimits.__init__, carried_bytes=carried))
    ref = upload(first__bin=b"x" * 65_536, second__bin=b"y")
    model_hub.faults.append(HubFault(None, "/second.bin", delay_s=4.0))
    config = PodConfig(
        command=(), repo=ref.repo, revision=ref.revision, hub=os.environ["HF_ENDPOINT"], max_bytes=10**6, max_files=9,
        download_s=3.0,
    )  # fmt: skip
    folder = tmp_path / "pod"
    folder.mkdir()
    with pytest.raises(family, match=r"within 3 s; 0\.00 GB") as caught:
        await asyncio.to_thread(download, config, READ_TOKEN, folder)
    assert caught.value.code == ("hub_timeout" if family is InfrastructureError else "snapshot_too_big")


async def test_passing_trouble_of_the_hub_is_waited_out(backend, model_hub, upload, tmp_path) -> None:
    spec = await spec_of(upload(), tmp_path)
    model_hub.faults.append(HubFault(503, "/resolve/", times=1))
    await until_ready(await backend.launch(spec), 20)


def wheel(folder: Path, name: str = "told_you") -> str:
    """Puts a package there and returns its digest."""
    path, about = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"{name}.py", "WORD = 'from a wheel'\n")
        packed.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        packed.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{about}/RECORD", f"{name}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def packages(basilica, tmp_path, tmp_path_factory) -> Path:
    """Where pods find packages; the one is there that every index has."""
    # The environment of these tests has no pip; the runner image has.
    image = tmp_path_factory.mktemp("image")
    venv.create(image, with_pip=True, symlinks=True)
    wheel(tmp_path, PROBE)
    basilica.environment |= {"PATH": f"{image}/bin:{os.environ['PATH']}"}
    basilica.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    return tmp_path


async def test_a_policys_packages_are_installed_by_their_hashes(backend, upload, packages, tmp_path) -> None:
    line = f"told-you==1.0 --hash=sha256:{wheel(packages)}\n"
    behaviour = "import told_you\nHEALTH['word'] = told_you.WORD\n"
    running = await backend.launch(await spec_of(upload(behaviour, requirements__txt=line.encode()), tmp_path))
    await until_ready(running, 20)
    assert "from a wheel" in text_of(running)


@pytest.mark.parametrize("name", ["told-you", "SSLError"])
async def test_packages_that_can_not_be_had_are_the_policys_fault(backend, upload, packages, tmp_path, name) -> None:
    wheel(packages)
    line = f"{name}==1.0 --hash=sha256:{'a' * 64}\n"
    with pytest.raises(PolicyError, match="pip can't install them") as caught:
        await backend.launch(await spec_of(upload(requirements__txt=line.encode()), tmp_path))
    assert caught.value.code == "requirements_failed"


async def test_packages_are_our_fault_when_none_can_be_had(backend, upload, packages, tmp_path) -> None:
    line = f"told-you==1.0 --hash=sha256:{wheel(packages)}\n"
    spec = await spec_of(upload(requirements__txt=line.encode()), tmp_path)
    for path in packages.glob("*.whl"):
        path.unlink()
    with pytest.raises(InfrastructureError, match="package index") as caught:
        await backend.launch(spec)
    assert caught.value.code == "requirements_network"


async def test_a_request_that_comes_twice_is_done_once(backend, upload, tmp_path) -> None:
    counts = "calls = []\ndef reset(task):\n    calls.append(1)\n    HEALTH['calls'] = len(calls)\n"
    running = await backend.launch(await spec_of(upload(counts), tmp_path))
    await until_ready(running, 20)
    headers = {"Authorization": str(running.authorization), "Idempotency-Key": "one"}
    body = {"task_config": {}}
    first = httpx.post(f"{running.url}/reset", headers=headers, json=body)
    second = httpx.post(f"{running.url}/reset", headers=headers, json=body)
    assert first.status_code == 200
    assert first.json() == second.json()
    httpx.post(f"{running.url}/reset", headers=headers | {"Idempotency-Key": "two"}, json=body)
    assert json.loads(text_of(running))["calls"] == 2


async def test_a_reply_beyond_the_limit_is_still_seen_as_too_large(backend, upload, tmp_path) -> None:
    behaviour = "HEALTH['model_loaded'] = 'x' * (3 * 1024 * 1024)\n"
    running = await backend.launch(await spec_of(upload(behaviour), tmp_path))
    async with PolicyClient(running.url, authorization=running.authorization) as client:
        code = "http_error"
        while code == "http_error":  # it is not up yet
            try:
                await client.health()
            except PolicyError as error:
                code = error.code
    assert code == "oversized_reply"


async def test_a_container_that_was_started_again_counts_as_the_policys_own_end(backend, upload, tmp_path) -> None:
    running = await backend.launch(await spec_of(upload(), tmp_path))
    await until_ready(running, 20)
    before = running.identity
    assert await running.exit_code() is None
    running._boot = "of another start"
    assert await running.exit_code() == 137
    assert running.identity != before


class Strangers:
    """Connections to a server of people who know no secret; each sends a byte now and then."""

    def __init__(self, url: str, count: int) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname, parts.port)
        self.connections = [socket.create_connection(self.address) for _ in range(count)]

    async def drip(self) -> None:
        while True:
            for connection in self.connections:
                with suppress(OSError):
                    connection.send(b"A")
            await asyncio.sleep(0.2)

    async def all_closed(self, within_s: float) -> bool:
        """Whether the server ended each of them, whatever they sent."""
        for connection in self.connections:
            connection.settimeout(within_s)
        try:
            return not any([await asyncio.to_thread(connection.recv, 1) for connection in self.connections])
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def leave(self) -> None:
        for connection in self.connections:
            connection.close()


async def test_strangers_who_never_finish_a_request_lock_nobody_out(backend, upload, tmp_path) -> None:
    running = await backend.launch(await spec_of(upload(), tmp_path))
    await until_ready(running, 20)
    headers = {"Authorization": str(running.authorization)}
    async with httpx.AsyncClient(headers=headers, timeout=5.0) as known:
        assert (await known.get(f"{running.url}/health")).status_code == 200
        strangers = Strangers(running.url, 300)
        dripping = asyncio.create_task(strangers.drip())
        try:
            began = time.monotonic()
            for _ in range(3):
                assert (await known.get(f"{running.url}/health")).status_code == 200, "on the connection that it has"
                async with httpx.AsyncClient(headers=headers, timeout=5.0) as another:
                    assert (await another.get(f"{running.url}/health")).status_code == 200, "on a new one"
            assert time.monotonic() - began < 4
            assert await running.exit_code() is None
            assert await strangers.all_closed(within_s=8.0), "dripping buys no time"
        finally:
            dripping.cancel()
            strangers.leave()


async def test_a_strangers_head_may_not_be_large(backend, upload, tmp_path) -> None:
    running = await backend.launch(await spec_of(upload(), tmp_path))
    stranger = Strangers(running.url, 1)
    try:
        with suppress(ConnectionError):
            for _ in range(50):
                stranger.connections[0].sendall(b"GET / HTTP/1.1\r\n" + b"a: " + b"b" * 60_000 + b"\r\n")
        assert await stranger.all_closed(within_s=2.0)
    finally:
        stranger.leave()

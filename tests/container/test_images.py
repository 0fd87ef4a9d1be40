"""Building and pushing images, against a real registry of Docker images on loopback."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import docker


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """`host:port` of an empty one."""
    if shutil.which("docker-registry") is None:
        pytest.skip("no docker-registry (apt-get install docker-registry)")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    config = tmp_path / "registry.json"
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": address}}))
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 20
        while True:
            try:
                asked(address, "")
                break
            except OSError:
                assert time.monotonic() < end, (tmp_path / "registry.log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def asked(address: str, path: str) -> dict:
    with urllib.request.urlopen(f"http://{address}/v2/{path}", timeout=5) as reply:
        return json.load(reply)


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kinitro", "env", "build", "miner", "--torch-index", "none", *arguments],
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip


@pytest.mark.timeout(300)
def test_an_image_is_built_labelled_and_pushed_to_a_registry(registry) -> None:
    try:
        built = build("--tag", "kinitro/test-runner:v7", "--push", "--registry", registry)
        assert built.returncode == 0, built.stdout + built.stderr
        assert "and pushed it." in built.stdout
        assert asked(registry, "_catalog") == {"repositories": ["kinitro/test-runner"]}
        assert asked(registry, "kinitro/test-runner/tags/list")["tags"] == ["v7"]
        labels = docker("inspect", "-f", "{{json .Config.Labels}}", f"{registry}/kinitro/test-runner:v7")
        assert json.loads(labels)["org.opencontainers.image.revision"]
    finally:
        for tag in (f"{registry}/kinitro/test-runner:v7", "kinitro/test-runner:v7"):
            subprocess.run(["docker", "rmi", "-f", tag], capture_output=True, check=False)


@pytest.mark.timeout(300)
def test_a_registry_that_takes_nothing_is_told_without_a_traceback() -> None:
    try:
        built = build("--tag", "kinitro/test-runner:v8", "--push", "--registry", "127.0.0.1:9")
        assert built.returncode == 1
        assert "The miner image could not be built" in built.stderr
        assert "127.0.0.1:9" in built.stderr
        assert "Traceback" not in built.stderr
    finally:
        for tag in ("127.0.0.1:9/kinitro/test-runner:v8", "kinitro/test-runner:v8"):
            subprocess.run(["docker", "rmi", "-f", tag], capture_output=True, check=False)

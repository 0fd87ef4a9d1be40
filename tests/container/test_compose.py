"""docker-compose.yml, brought up as the guide says: every service healthy, keys made, nothing open without them."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from .conftest import docker, left_over

ROOT = Path(__file__).parents[2]
SERVICES = os.environ.get("KINITRO_IMAGE", "kinitro/services:v1")
POSTGRES = "kinitro-test/postgres:15"
Compose = Callable[..., str]


def compose_command() -> list[str] | None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


@pytest.fixture(scope="module")
def project() -> tuple[dict[str, str], str]:
    """The environment and name of a stack of this test's own."""
    if compose_command() is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    for image, how in ((SERVICES, "docker build -t kinitro/services:v1 ."), (POSTGRES, "tests/container/postgres")):
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode:
            pytest.skip(f"{image} is not on this machine: {how}")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    variables = {
        "KINITRO_IMAGE": SERVICES,
        "KINITRO_POSTGRES_IMAGE": POSTGRES,
        "KINITRO_PORT": port,
        "KINITRO_SCHEDULER_NETWORK": "dev",
        "DOCKER_GID": str(Path("/var/run/docker.sock").stat().st_gid),
        "COMPOSE_PROFILES": "executor",
    }
    return os.environ | variables, f"kinitro-test-{uuid4().hex[:6]}"


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """Not after each test: the stack's executor works on; `compose` looks when it is down."""


@pytest.fixture(scope="module")
def compose(project: tuple[dict[str, str], str]) -> Iterator[Compose]:
    variables, name = project
    command = [*(compose_command() or []), "-f", str(ROOT / "docker-compose.yml"), "-p", name]

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments], env=variables, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("up", "-d")
    try:
        yield run
    finally:
        subprocess.run(
            [*command, "down", "-v", "--timeout", "30"], env=variables, capture_output=True, timeout=120, check=False
        )
    assert left_over() == []


@pytest.fixture(scope="module")
def url(compose: Compose, project: tuple[dict[str, str], str]) -> str:
    return f"http://localhost:{project[0]['KINITRO_PORT']}"


def state_of(project: tuple[dict[str, str], str], service: str) -> dict[str, object]:
    labels = (f"com.docker.compose.project={project[1]}", f"com.docker.compose.service={service}")
    filters = [word for label in labels for word in ("--filter", f"label={label}")]
    (container,) = docker("ps", "-aq", *filters).split()
    return json.loads(docker("inspect", "--format", "{{json .State}}", container))


def until(condition: Callable[[], bool], within_s: float, describe: Callable[[], str]) -> None:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(describe())


@pytest.mark.timeout(300)
def test_the_stack_comes_up_healthy_and_serves(compose: Compose, project, url: str) -> None:
    for service in ("database", "api", "scheduler"):
        until(
            lambda service=service: state_of(project, service)["Health"]["Status"] == "healthy",
            120,
            lambda service=service: compose("logs", "--tail", "30", service),
        )
    assert httpx.get(f"{url}/health").json()["database"] == "connected"
    assert httpx.get(f"{url}/v1/status").json()["scheduler_running"] is True


@pytest.mark.timeout(300)
def test_without_the_generated_key_nobody_takes_tasks_and_with_it_the_executor_does(
    compose: Compose, project, url: str
) -> None:
    body = {"executor_id": "stranger", "batch_size": 1}
    assert httpx.post(f"{url}/v1/tasks/fetch", json=body).status_code == 401
    key = compose("exec", "-T", "api", "cat", "/keys/api").strip()
    assert len(key) == 64
    assert key not in (ROOT / "docker-compose.yml").read_text()
    allowed = httpx.post(f"{url}/v1/tasks/fetch", json=body, headers={"Authorization": f"Bearer {key}"})
    assert allowed.status_code == 200


@pytest.mark.timeout(300)
def test_the_executor_in_a_container_proves_the_isolation_and_asks_for_work(
    compose: Compose, project, url: str
) -> None:
    until(
        lambda: any(name != "stranger" for name in httpx.get(f"{url}/v1/tasks/stats").json()["active_executors"]),
        120,
        lambda: compose("logs", "--tail", "40", "executor"),
    )
    assert state_of(project, "executor")["Running"] is True


def test_no_service_of_ours_runs_as_root_or_can_write_its_image(compose: Compose, project) -> None:
    for service in ("api", "scheduler", "executor"):
        assert compose("exec", "-T", service, "id", "-u").strip() == "10003"
    refused = subprocess.run(
        ["docker", "run", "--rm", "--read-only", "--entrypoint", "sh", SERVICES, "-c", "touch /opt/kinitro/x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Read-only file system" in refused.stderr

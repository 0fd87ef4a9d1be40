"""A download in a process of its own: it ends when it is given up, whoever gives up, and nobody sees its token."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from kinitro.deployments import download
from kinitro.deployments.download import DownloadRequest, run_download
from kinitro.deployments.hub import HuggingFaceHub
from kinitro.deployments.limits import HubLimits
from kinitro.errors import InfrastructureError, PolicyError
from kinitro.testing.hub import HubFault, HubRepo, LocalHub, serving
from kinitro.types import PolicyRef

TOKEN = "hf_neverseen"


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalHub]:
    hub = LocalHub(tmp_path / "hub", {TOKEN: "operator"})
    async with serving(hub) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield hub


@pytest.fixture
def hanging(hub: LocalHub) -> PolicyRef:
    """A repo of which one file comes at once, and the other not at all."""
    files = {"first.bin": hub.keep(b"\1" * 50_000), "never.bin": hub.keep(b"\2" * 50_000)}
    hub.faults = [HubFault(None, path="/never.bin", method="GET", delay_s=60.0)]
    return PolicyRef("user/policy", hub.add_commit(HubRepo("user/policy", private=False), files))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fetched").mkdir()
    return tmp_path / "fetched"


def processes() -> dict[int, str]:
    """Those that download from this test's hub: what `ps` and `/proc` show of each."""
    found, mine = {}, f"HF_ENDPOINT={os.environ['HF_ENDPOINT']}"
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            environment = (entry / "environ").read_bytes().decode(errors="replace")
            if download.__name__ in command and mine in environment.split("\0"):
                found[int(entry.name)] = command + environment
        except OSError:
            continue
    return found


async def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - it looks at other processes
            await asyncio.sleep(0.02)


def asked_for_the_last_file(hub: LocalHub) -> bool:
    return any(method == "GET" and path.endswith("/never.bin") for method, path, _ in hub.seen)


async def test_a_download_past_its_deadline_is_ended_and_how_much_came_says_whose_fault_it_is(
    hub: LocalHub, hanging: PolicyRef, tmp_path: Path
) -> None:
    began, deadline_s = time.monotonic(), 15.0  # time enough for a busy machine to start two processes

    async def failure(carried_bytes: int) -> Exception:
        folder = tmp_path / str(carried_bytes)
        folder.mkdir()
        limits = HubLimits(deadline_s=deadline_s, attempts=1, carried_bytes=carried_bytes)
        with pytest.raises((PolicyError, InfrastructureError), match="within 15 s") as caught:
            await HuggingFaceHub(None, limits).fetch(hanging, folder)
        return caught.value

    little, much = await asyncio.gather(failure(100_000), failure(40_000))
    assert asked_for_the_last_file(hub)
    assert isinstance(little, InfrastructureError)
    assert little.code == "hub_timeout"
    assert isinstance(much, PolicyError)
    assert much.code == "snapshot_too_big"
    assert "and this is larger" in much.message
    assert time.monotonic() - began < 45  # not the minute that the hub takes
    assert processes() == {}


async def test_a_download_that_is_cancelled_ends_and_its_token_was_never_to_be_seen(
    hub: LocalHub, hanging: PolicyRef, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("KINITRO_EXECUTOR_MINER_HF_TOKEN", TOKEN)
    fetching = asyncio.create_task(HuggingFaceHub(SecretStr(TOKEN)).fetch(hanging, folder))
    await until(lambda: asked_for_the_last_file(hub))
    assert {token for _, _, token in hub.seen} == {f"Bearer {TOKEN}"}
    (shown,) = processes().values()
    assert TOKEN not in shown
    fetching.cancel()
    await asyncio.wait({fetching})
    assert processes() == {}


async def test_a_download_does_not_outlive_us(hub: LocalHub, hanging: PolicyRef, folder: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from kinitro.deployments.hub import HuggingFaceHub; "
        "from kinitro.types import PolicyRef; "
        "asyncio.run(HuggingFaceHub().fetch(PolicyRef(*sys.argv[1:3]), Path(sys.argv[3])))"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, hanging.repo, hanging.revision, str(folder)
    )
    try:
        await until(lambda: asked_for_the_last_file(hub))
        assert processes()
    finally:
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
    await until(lambda: processes() == {}, 5)


async def test_a_process_that_dies_is_our_fault_and_a_disk_that_fails_is_the_disks(
    hub: LocalHub, hanging: PolicyRef, folder: Path
) -> None:
    request = DownloadRequest(hanging.repo, hanging.revision, str(folder), os.environ["HF_ENDPOINT"], False, 10**9)
    running = asyncio.create_task(run_download(request))
    await until(lambda: asked_for_the_last_file(hub))
    (pid,) = processes()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(InfrastructureError, match="exit code -9"):
        await running
    with pytest.raises(NotADirectoryError):
        await run_download(replace(request, destination="/dev/null/x"))


async def test_a_process_that_fails_slowly_is_named_by_its_own_exit_code(
    hub: LocalHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexec >&-\nsleep 0.5\nexit 7\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    request = DownloadRequest("user/policy", "0" * 40, str(folder), os.environ["HF_ENDPOINT"], False, 10**9)
    with pytest.raises(InfrastructureError, match="exit code 7 and without an answer"):
        await run_download(request)


async def test_no_file_grows_beyond_what_is_taken_whatever_was_listed(hub: LocalHub, folder: Path) -> None:
    ref = PolicyRef("user/policy", hub.add_commit(HubRepo("user/policy", private=False), {"a": hub.keep(b"1" * 9000)}))
    request = DownloadRequest(ref.repo, ref.revision, str(folder), os.environ["HF_ENDPOINT"], False, 8000)
    with pytest.raises(OSError, match="File too large"):
        await run_download(request)

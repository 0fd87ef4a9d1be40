import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvicorn
from pydantic import SecretStr

from kinitro.deployments.hub import HuggingFaceHub
from kinitro.deployments.limits import HubLimits
from kinitro.errors import ConfigurationError, InfrastructureError, PolicyError
from kinitro.types import PolicyRef

from .fake_hub import REVISION, FakeHub

REF = PolicyRef("user/policy", REVISION)
QUICK = HubLimits(deadline_s=20.0, attempts=3, first_pause_s=0.01)


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeHub]:
    hub = FakeHub({"policy.py": b"pass\n", "weights/model.bin": b"\0" * 5000})
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(hub.app(), log_level="critical", ws="none", timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
        await asyncio.sleep(0.005)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
    yield hub
    server.should_exit = True
    await serving
    listener.close()


@pytest.fixture
def fetch(tmp_path: Path, hub: FakeHub) -> Callable:
    async def fetch(limits: HubLimits = QUICK, token: SecretStr | None = None) -> Path:
        folder = tmp_path / "fetched"
        folder.mkdir()
        await HuggingFaceHub(token, limits).fetch(REF, folder)
        return folder

    return fetch


async def test_a_snapshot_comes_as_plain_files_and_nothing_else(hub: FakeHub, fetch) -> None:
    folder = await fetch()
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    assert {name: path.read_bytes() for name, path in present.items()} == hub.files
    assert not any(path.is_symlink() for path in present.values())
    assert not (folder / ".cache").exists()
    assert hub.tokens == {None}


async def test_the_operators_token_is_used_when_there_is_one(hub: FakeHub, fetch) -> None:
    await fetch(token=SecretStr("hf_ours"))
    assert hub.tokens == {"Bearer hf_ours"}


@pytest.mark.parametrize("code", ["RepoNotFound", "RevisionNotFound"])
async def test_a_missing_snapshot_is_the_policys_fault(hub: FakeHub, fetch, code: str) -> None:
    hub.refuse_always = (404, code)
    with pytest.raises(PolicyError) as caught:
        await fetch()
    assert caught.value.code == "snapshot_missing"


@pytest.mark.parametrize(("status", "code"), [(401, ""), (403, ""), (403, "GatedRepo"), (401, "RepoNotFound")])
@pytest.mark.parametrize("token", [None, SecretStr("hf_ours")])
async def test_a_private_repo_is_the_policys_fault_only_while_our_access_works(
    hub: FakeHub, fetch, tmp_path: Path, status: int, code: str, token
) -> None:
    hub.refuse_always = (status, code)
    with pytest.raises(PolicyError) as caught:
        await fetch(token=token)
    assert caught.value.code == "snapshot_private"
    (tmp_path / "fetched").rmdir()
    hub.refuse_access = 401
    with pytest.raises(InfrastructureError) as refused:
        await fetch(token=token)
    assert refused.value.code == "hub_refused"


@pytest.mark.parametrize(
    ("status", "code"), [(429, "hub_rate_limited"), (500, "hub_unreachable"), (503, "hub_unreachable")]
)
async def test_a_hub_in_trouble_is_asked_again_and_then_is_our_fault(
    hub: FakeHub, fetch, tmp_path: Path, status: int, code: str
) -> None:
    hub.refuse_repo = [(status, "")]
    await fetch()
    (tmp_path / "fetched").rename(tmp_path / "before")
    hub.refuse_always = (status, "")
    with pytest.raises(InfrastructureError) as caught:
        await fetch()
    assert caught.value.code == code


async def test_a_hub_that_is_away_is_our_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    hub = HuggingFaceHub(None, QUICK)
    with pytest.raises(InfrastructureError, match="can't be reached"):
        await hub.fetch(REF, tmp_path)
    with pytest.raises(InfrastructureError, match="can't be reached"):
        await hub.check()


async def test_a_hub_that_hangs_is_given_up_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(InfrastructureError) as caught:
            await HuggingFaceHub(None, HubLimits(deadline_s=0.5)).fetch(REF, tmp_path)
        assert caught.value.code == "hub_timeout"
        assert time.monotonic() - began < 3


async def test_a_repo_that_is_too_big_is_refused_before_anything_is_downloaded(hub: FakeHub, fetch) -> None:
    hub.sizes = {"weights/model.bin": 6 * 10**9}
    with pytest.raises(PolicyError, match=r"6\.0 GB; at most 5 GB") as caught:
        await fetch()
    assert caught.value.code == "snapshot_too_big"
    assert hub.downloads == 0


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a//b", "a\\..\\b", ".cache/x", "a\nb", "x" * 300])
async def test_a_file_name_that_could_do_harm_is_refused_before_anything_is_downloaded(
    hub: FakeHub, fetch, name: str
) -> None:
    hub.files = {"policy.py": b"", name: b"x"}
    with pytest.raises(PolicyError) as caught:
        await fetch()
    assert caught.value.code == "snapshot_refused"
    assert hub.downloads == 0


async def test_another_commit_than_the_one_asked_for_is_refused(hub: FakeHub, fetch) -> None:
    hub.sha = "cd" * 20
    with pytest.raises(PolicyError, match="another commit"):
        await fetch()


async def test_content_that_differs_from_the_listing_is_not_taken(hub: FakeHub, fetch) -> None:
    hub.served = {"policy.py": b"cheat"}
    with pytest.raises(InfrastructureError) as caught:
        await fetch()
    assert caught.value.code in ("hub_damaged_download", "hub_unreachable")


@pytest.mark.parametrize("text", ["much", "-1", "0", "nan"])
def test_a_size_limit_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("KINITRO_MAX_REPO_SIZE_GB", text)
    with pytest.raises(ConfigurationError, match="KINITRO_MAX_REPO_SIZE_GB"):
        HubLimits.from_environment()

"""What an executor and the scheduler read of a hub, with the real client: whose fault each failure is."""

import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from kinitro.deployments.hub import HuggingFaceHub
from kinitro.deployments.limits import HubLimits
from kinitro.errors import InfrastructureError, PolicyError
from kinitro.testing.hub import HubFault, HubFile, HubRepo, LocalHub, serving
from kinitro.types import PolicyRef

QUICK = HubLimits(deadline_s=20.0, attempts=3, first_pause_s=0.01)
FILES = {"policy.py": b"pass\n", "weights/model.bin": b"\0" * 5000}
REF = PolicyRef("user/policy", "ab" * 20)
HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalHub]:
    hub = LocalHub(tmp_path / "hub", {"hf_ours": "operator"})
    async with serving(hub) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield hub


def add(hub: LocalHub, files: dict[str, bytes] | dict[str, HubFile], *, private: bool = False) -> PolicyRef:
    """A revision of user/policy that holds these files."""
    kept = {name: file if isinstance(file, HubFile) else hub.keep(file) for name, file in files.items()}
    return PolicyRef("user/policy", hub.add_commit(HubRepo("user/policy", private), kept))


@pytest.fixture
def fetch(tmp_path: Path) -> Callable:
    async def fetch(ref: PolicyRef, limits: HubLimits = QUICK, token: SecretStr | None = None) -> dict[str, bytes]:
        folder = tmp_path / f"fetched-{time.monotonic_ns()}"
        folder.mkdir()
        await HuggingFaceHub(token, limits).fetch(ref, folder)
        assert not any(path.is_symlink() for path in folder.rglob("*"))
        present = [path for path in folder.rglob("*") if not path.is_dir()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in present}

    return fetch


def downloads(hub: LocalHub) -> list[str]:
    return [path for method, path, _ in hub.seen if method == "GET" and "/resolve/" in path]


async def test_a_snapshot_comes_as_plain_files_and_nothing_else(hub: LocalHub, fetch) -> None:
    assert await fetch(add(hub, FILES)) == FILES
    assert {token for _, _, token in hub.seen} == {None}


async def test_large_files_come_by_their_own_way(hub: LocalHub, fetch) -> None:
    assert await fetch(add(hub, {"model.bin": hub.keep(b"\0" * 9000, lfs=True)})) == {"model.bin": b"\0" * 9000}


async def test_an_older_revision_is_fetched_as_it_was(hub: LocalHub, fetch) -> None:
    old = add(hub, FILES)
    hub.add_commit(hub.repo("user/policy"), {"policy.py": hub.keep(b"new")})
    assert await fetch(old) == FILES


async def test_the_operators_token_is_used_when_there_is_one(hub: LocalHub, fetch) -> None:
    await fetch(add(hub, FILES), token=SecretStr("hf_ours"))
    assert {token for _, _, token in hub.seen} == {"Bearer hf_ours"}


async def test_a_missing_snapshot_is_the_policys_fault(hub: LocalHub, fetch) -> None:
    missing = PolicyRef(add(hub, FILES).repo, "0" * 40)
    for ref, token in ((missing, None), (missing, SecretStr("hf_ours")), (PolicyRef("user/none", "0" * 40), None)):
        with pytest.raises(PolicyError) as caught:
            await fetch(ref, token=token)
        assert caught.value.code in ("snapshot_missing", "snapshot_private")


@pytest.mark.parametrize(("status", "code"), [(401, ""), (403, ""), (403, "GatedRepo"), (401, "RepoNotFound")])
@pytest.mark.parametrize("token", [None, SecretStr("hf_ours")])
async def test_a_repo_that_is_refused_is_the_policys_fault_only_while_our_access_works(
    hub: LocalHub, fetch, status: int, code: str, token: SecretStr | None
) -> None:
    ref = add(hub, FILES)
    hub.faults = [HubFault(status, path="/user/policy", code=code)]
    with pytest.raises(PolicyError, match="missing, private or gated") as caught:
        await fetch(ref, token=token)
    assert caught.value.code == "snapshot_private"
    hub.faults = [HubFault(status, code=code)]
    with pytest.raises(InfrastructureError) as refused:
        await fetch(ref, token=token)
    assert refused.value.code == "hub_refused"


async def test_a_private_repo_is_the_policys_fault_and_a_wrong_token_is_ours(hub: LocalHub, fetch) -> None:
    ref = add(hub, FILES, private=True)
    with pytest.raises(PolicyError):
        await fetch(ref)
    with pytest.raises(InfrastructureError, match="refuses our own access"):
        await fetch(ref, token=SecretStr("hf_expired"))


@pytest.mark.parametrize(
    ("status", "code"), [(429, "hub_rate_limited"), (500, "hub_unreachable"), (503, "hub_unreachable")]
)
async def test_a_hub_in_trouble_is_asked_again_and_then_is_our_fault(
    hub: LocalHub, fetch, status: int, code: str
) -> None:
    ref = add(hub, FILES)
    hub.faults = [HubFault(status, times=1)]
    assert await fetch(ref) == FILES
    hub.faults = [HubFault(status)]
    with pytest.raises(InfrastructureError) as caught:
        await fetch(ref)
    assert caught.value.code == code


async def test_a_slow_hub_is_waited_for_until_the_deadline(hub: LocalHub, fetch) -> None:
    ref = add(hub, FILES)
    hub.faults = [HubFault(None, path="/api/models/", delay_s=0.3)]
    assert await fetch(ref) == FILES
    with pytest.raises(InfrastructureError) as caught:
        await fetch(ref, HubLimits(deadline_s=0.1))
    assert caught.value.code == "hub_timeout"


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


async def test_a_repo_that_is_too_big_is_refused_before_anything_is_downloaded(hub: LocalHub, fetch) -> None:
    ref = add(hub, {"weights/model.bin": replace(hub.keep(b"x"), size=6 * 10**9)})
    with pytest.raises(PolicyError, match=r"6\.0 GB; at most 5 GB") as caught:
        await fetch(ref)
    assert caught.value.code == "snapshot_too_big"
    assert not downloads(hub)


async def test_too_many_files_are_refused_before_anything_is_downloaded(hub: LocalHub, fetch) -> None:
    ref = add(hub, {f"{number}.txt": b"" for number in range(5)})
    with pytest.raises(PolicyError, match="5 files; between 1 and 4"):
        await fetch(ref, replace(QUICK, max_files=4))
    assert not downloads(hub)


async def test_a_disk_without_room_is_our_fault(hub: LocalHub, fetch) -> None:
    ref = add(hub, {"weights/model.bin": replace(hub.keep(b"x"), size=10**15)})
    with pytest.raises(InfrastructureError, match="the disk of") as caught:
        await fetch(ref, replace(QUICK, max_bytes=10**16))
    assert caught.value.code == "snapshot_cache"


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "a//b", "a\\..\\b", ".cache/x", "a\nb", "x" * 201, "/".join(["é" * 90] * 6)],
)
async def test_a_file_name_that_could_do_harm_is_refused_before_anything_is_downloaded(
    hub: LocalHub, fetch, name: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        await fetch(add(hub, {"policy.py": b"", name: b"x"}))
    assert caught.value.code == "snapshot_refused"
    assert not downloads(hub)


async def test_a_name_that_the_hub_resolves_to_another_commit_is_refused(
    hub: LocalHub, fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(hub, FILES)
    monkeypatch.setattr(HubRepo, "find", lambda repo, _: repo.commits[-1])  # a branch called like a commit
    with pytest.raises(PolicyError, match="another commit"):
        await fetch(PolicyRef("user/policy", "cd" * 20))


async def test_content_that_differs_from_the_listing_is_not_taken(hub: LocalHub, fetch) -> None:
    file = hub.keep(FILES["policy.py"])
    ref = add(hub, {"policy.py": file})
    hub.content(file).write_bytes(b"cheat")
    with pytest.raises(InfrastructureError) as caught:
        await fetch(ref)
    assert caught.value.code == "hub_damaged_download"


@pytest.mark.parametrize(
    ("content", "owner"),
    [
        (json.dumps({"hotkey": HOTKEY}).encode(), HOTKEY),
        (json.dumps({"hotkey": HOTKEY, "more": 1}).encode(), HOTKEY),
        (None, None),
        (b"{}", None),
        (b"[]", None),
        (b"not json", None),
        (b'{"hotkey": "none of ours"}', None),
        (b'{"hotkey": 5}', None),
        (b"[" * 3000, None),
        (json.dumps({"hotkey": HOTKEY, "filler": "x" * 5000}).encode(), None),
    ],
)
async def test_whose_policy_it_is_stands_in_its_own_file(hub: LocalHub, content: bytes | None, owner) -> None:
    ref = add(hub, FILES | ({"kinitro.json": content} if content is not None else {}))
    assert await HuggingFaceHub(None, QUICK).read_owner(ref) == owner
    assert all(path.endswith("/kinitro.json") for path in downloads(hub))


async def test_whose_policy_it_is_can_not_be_read_while_the_hub_is_in_trouble(hub: LocalHub) -> None:
    ref = add(hub, FILES)
    hub.faults = [HubFault(429)]
    with pytest.raises(InfrastructureError, match="slow down"):
        await HuggingFaceHub(None, QUICK).read_owner(ref)
    hub.faults = []
    with pytest.raises(PolicyError):
        await HuggingFaceHub(None, QUICK).read_owner(PolicyRef("user/policy", "0" * 40))

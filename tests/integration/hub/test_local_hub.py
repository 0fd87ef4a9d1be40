# ruff: noqa: ASYNC240 - files of a few bytes
"""The stand-in against the real client, unmodified."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from huggingface_hub import CommitInfo, HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from kinitro.testing.hub import HEADER, HubFault, LocalHub, serving

# The client's own use of its HTTP library, in uploads by LFS.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

MINE, OTHERS = "hf_mine", "hf_others"
FILES = {
    "policy.py": b"pass\n",
    "README.md": b"---\ntags: []\n---\n",
    "weights/model.bin": b"\0\1" * 20_000,
    "empty": b"",
}


@pytest.fixture(params=["plain", "lfs"])
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> LocalHub:
    # The client reads the variable HF_HUB_DISABLE_XET once, at its import.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    lfs_bytes = 10_000 if request.param == "lfs" else 10**9
    return LocalHub(tmp_path / "hub", {MINE: "me", OTHERS: "other"}, lfs_bytes=lfs_bytes)


@pytest.fixture
async def url(hub: LocalHub) -> AsyncIterator[str]:
    async with serving(hub) as url:
        yield url


@pytest.fixture
def ask(url: str) -> Callable:
    """Calls a method of the client, as `token` (False: as nobody)."""

    async def ask(method: str, *arguments, token: str | bool = MINE, **options):
        api = HfApi(endpoint=url, token=token)
        return await asyncio.to_thread(functools.partial(getattr(api, method), *arguments, **options))

    return ask


@pytest.fixture
def upload(ask, tmp_path: Path) -> Callable:
    async def upload(files: dict[str, bytes], **options) -> CommitInfo:
        folder = tmp_path / "mine"
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return await ask("upload_folder", repo_id="me/policy", folder_path=folder, **options)

    return upload


async def download(url: str, revision: str, folder: Path, token: str | bool = MINE) -> dict[str, bytes]:
    await asyncio.to_thread(
        functools.partial(
            snapshot_download, "me/policy", revision=revision, local_dir=folder, token=token, endpoint=url
        )
    )
    paths = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


async def test_what_is_uploaded_comes_back_the_same_by_its_revision(ask, upload, url: str, tmp_path: Path) -> None:
    await ask("create_repo", "me/policy", private=True)
    commit = await upload(FILES)
    info = await ask("model_info", "me/policy", revision=commit.oid, files_metadata=True)
    assert info.sha == commit.oid
    assert {file.rfilename: file.size for file in info.siblings} == {
        name: len(data) for name, data in FILES.items()
    } | {".gitattributes": 50}
    fetched = await download(url, commit.oid, tmp_path / "fetched")
    del fetched[".gitattributes"]
    assert fetched == FILES


async def test_an_upload_of_nothing_new_makes_no_commit(ask, upload) -> None:
    await ask("create_repo", "me/policy")
    first = await upload(FILES)
    assert (await upload(FILES)).oid == first.oid
    second = await upload({"policy.py": b"changed\n"})
    assert second.oid != first.oid


async def test_files_that_are_gone_can_be_deleted_with_an_upload(ask, upload, tmp_path: Path) -> None:
    await ask("create_repo", "me/policy")
    await upload(FILES)
    (tmp_path / "mine" / "policy.py").unlink()
    commit = await upload({"other.py": b""}, delete_patterns="*")
    names = await ask("list_repo_files", "me/policy", revision=commit.oid)
    assert set(names) == {".gitattributes", "README.md", "weights/model.bin", "empty", "other.py"}


async def test_a_private_repo_is_shown_to_its_owner_alone_until_it_is_public(ask, upload, url, tmp_path: Path) -> None:
    await ask("create_repo", "me/policy", private=True)
    commit = await upload(FILES)
    for stranger in (False, OTHERS):
        with pytest.raises(RepositoryNotFoundError):
            await ask("model_info", "me/policy", token=stranger)
    # The client's list is lazy: it asks while it is walked through.
    assert await asyncio.to_thread(lambda: [model.id for model in HfApi(url, MINE).list_models()]) == ["me/policy"]
    await ask("update_repo_settings", "me/policy", private=False)
    assert (await download(url, commit.oid, tmp_path / "public", token=False))["policy.py"] == FILES["policy.py"]
    with pytest.raises(HfHubHTTPError, match="write access"):
        await ask("update_repo_settings", "me/policy", private=True, token=OTHERS)


async def test_what_does_not_exist_is_said_as_the_hub_says_it(ask) -> None:
    with pytest.raises(RepositoryNotFoundError):
        await ask("model_info", "me/policy")
    await ask("create_repo", "me/policy")
    with pytest.raises(RevisionNotFoundError):
        await ask("model_info", "me/policy", revision="0" * 40)
    with pytest.raises(EntryNotFoundError):
        await ask("hf_hub_download", "me/policy", "nothing.txt")


async def test_creating_a_repo_twice_is_a_conflict_unless_it_may_exist(ask) -> None:
    await ask("create_repo", "me/policy")
    with pytest.raises(HfHubHTTPError, match="already created"):
        await ask("create_repo", "me/POLICY")
    assert (await ask("create_repo", "me/POLICY", exist_ok=True)).endswith("/me/policy")
    with pytest.raises(HfHubHTTPError, match="rights"):
        await ask("create_repo", "other/policy")


async def test_a_token_names_its_user_and_a_wrong_one_is_refused(ask) -> None:
    assert (await ask("whoami"))["name"] == "me"
    with pytest.raises(HfHubHTTPError, match="Invalid"):
        await ask("whoami", token="hf_wrong")


async def test_it_fails_as_it_is_told_to_and_no_longer(hub: LocalHub, ask) -> None:
    await ask("create_repo", "me/policy")
    hub.faults.append(HubFault(403, path="/api/models/me", times=1))
    with pytest.raises(HfHubHTTPError, match="403"):
        await ask("model_info", "me/policy")
    assert (await ask("model_info", "me/policy")).id == "me/policy"


async def test_it_says_what_it_is(url: str) -> None:
    async with httpx.AsyncClient() as client:
        answers = [await client.get(url), await client.get(f"{url}/nowhere")]
    assert "not HuggingFace" in answers[0].text
    assert all(HEADER in answer.headers for answer in answers)


async def test_what_it_keeps_survives_a_restart(hub: LocalHub, ask, upload, tmp_path: Path) -> None:
    await ask("create_repo", "me/policy", private=True)
    commit = await upload(FILES)
    again = LocalHub(tmp_path / "hub").repo("ME/policy")
    assert again is not None
    assert again.private
    assert again.find(commit.oid) is not None

# ruff: noqa: ASYNC240 - files of a few bytes
import os
from pathlib import Path

import pytest

from kinitro.deployments.snapshots import SnapshotStore
from kinitro.deployments.trees import tree_digest
from kinitro.errors import ConfigurationError, InfrastructureError, PolicyError
from kinitro.types import PolicyRef


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


class Source:
    """A hub of one policy."""

    def __init__(self, files: dict[str, str], error: Exception | None = None) -> None:
        self.files = files
        self.error = error
        self.fetched: list[PolicyRef] = []

    async def fetch(self, ref: PolicyRef, destination: Path) -> None:
        self.fetched.append(ref)
        write(destination, self.files)
        if self.error is not None:
            raise self.error

    async def check(self) -> None:
        return


REF = PolicyRef("User/Policy", "ab" * 20)


def test_the_digest_tells_trees_apart_by_names_and_contents(tmp_path: Path) -> None:
    trees = [{"a": "bc"}, {"ab": "c"}, {"a": "b", "c": ""}, {"a/b": "c"}, {"a": "b\0c"}, {"a": "bc", "d/README.md": ""}]
    digests = {tree_digest(write(tmp_path / str(number), tree)) for number, tree in enumerate(trees)}
    assert len(digests) == len(trees)


def test_the_owners_file_and_the_readme_do_not_make_a_copy_original(tmp_path: Path) -> None:
    original = write(tmp_path / "a", {"policy.py": "x", "kinitro.json": "one", "README.md": "one"})
    copy = write(tmp_path / "b", {"policy.py": "x", "kinitro.json": "two"})
    assert tree_digest(original) == tree_digest(copy)


def test_the_digest_is_a_fixed_one(tmp_path: Path) -> None:
    # Written down: other versions and other parts of the system compare digests.
    assert (
        tree_digest(write(tmp_path, {"policy.py": "pass\n", "lib/a.py": ""}))
        == "002ef605b3313fa625a81b8e5911a09c24716daf1d82ea1691699d102960160a"
    )


async def test_a_cached_revision_needs_no_hub_and_is_found_in_any_case(tmp_path: Path) -> None:
    source = Source({"policy.py": "x"})
    fetched = await SnapshotStore(tmp_path, source).obtain(REF)
    cached = await SnapshotStore(tmp_path).obtain(PolicyRef("user/POLICY", REF.revision))
    assert fetched == cached
    assert fetched.path == tmp_path / "user--policy" / REF.revision
    assert (fetched.path / "policy.py").read_text() == "x"


async def test_what_was_not_fetched_whole_is_not_in_the_cache(tmp_path: Path) -> None:
    source = Source({"policy.py": "x"}, InfrastructureError("the line broke", code="hub_unreachable"))
    store = SnapshotStore(tmp_path, source)
    with pytest.raises(InfrastructureError, match="the line broke"):
        await store.obtain(REF)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    source.error = None
    await store.obtain(REF)
    assert len(source.fetched) == 2


async def test_a_file_name_that_the_disk_refuses_is_the_policys_fault(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, Source({"a" * 300: "x"}))
    with pytest.raises(PolicyError) as caught:
        await store.obtain(REF)
    assert caught.value.code == "snapshot_refused"


async def test_a_snapshot_that_was_changed_on_the_disk_is_fetched_again(tmp_path: Path) -> None:
    source = Source({"policy.py": "x"})
    store = SnapshotStore(tmp_path, source)
    snapshot = await store.obtain(REF)
    (snapshot.path / "policy.py").chmod(0o644)
    (snapshot.path / "policy.py").write_text("cheat")
    again = await store.obtain(REF)
    assert (again.path / "policy.py").read_text() == "x"
    assert len(source.fetched) == 2


async def test_a_folder_without_its_mark_of_completeness_is_not_trusted(tmp_path: Path) -> None:
    source = Source({"policy.py": "x"})
    write(tmp_path / "user--policy" / REF.revision, {"policy.py": "half"})
    snapshot = await SnapshotStore(tmp_path, source).obtain(REF)
    assert (snapshot.path / "policy.py").read_text() == "x"


@pytest.mark.parametrize(
    "ref",
    [
        PolicyRef("../../etc", "a" * 40),
        PolicyRef("user/..", "a" * 40),
        PolicyRef("user", "a" * 40),
        PolicyRef("a--b/c", "a" * 40),
        PolicyRef("user/policy", "main"),
        PolicyRef("user/policy", "../" * 13 + "a"),
        PolicyRef("user/policy", "A" * 40),
    ],
)
async def test_a_reference_that_is_not_one_is_refused_before_anything_is_touched(
    tmp_path: Path, ref: PolicyRef
) -> None:
    source = Source({})
    with pytest.raises(PolicyError) as caught:
        await SnapshotStore(tmp_path / "root", source).obtain(ref)
    assert caught.value.code == "snapshot_refused"
    assert not source.fetched
    assert not (tmp_path / "root").exists()


async def test_a_local_folder_gets_a_revision_of_its_content(tmp_path: Path) -> None:
    folder = write(tmp_path / "policy", {"policy.py": "x", "__pycache__/policy.pyc": "y"})
    store = SnapshotStore(tmp_path / "root")
    ref = store.add_local(folder, "demo/one")
    assert ref == store.add_local(folder, "demo/one")
    snapshot = await store.obtain(ref)
    assert sorted(path.name for path in snapshot.path.iterdir()) == ["policy.py"]
    write(folder, {"policy.py": "z"})
    assert store.add_local(folder, "demo/one").revision != ref.revision


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/passwd"), os.mkfifo], ids=["link", "pipe"])
def test_a_folder_with_links_or_special_files_is_refused(tmp_path: Path, make) -> None:
    folder = write(tmp_path / "policy", {"policy.py": "x"})
    make(folder / "odd")
    with pytest.raises(ConfigurationError, match="odd"):
        SnapshotStore(tmp_path / "root").add_local(folder, "demo/one")


def test_a_folder_that_does_not_exist_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no policy folder"):
        SnapshotStore(tmp_path).add_local(tmp_path / "nowhere", "demo/one")


async def test_a_disk_that_fails_is_our_fault(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file where the folder should be")
    with pytest.raises(InfrastructureError) as caught:
        await SnapshotStore(tmp_path / "root", Source({"policy.py": "x"})).obtain(REF)
    assert caught.value.code == "snapshot_cache"

import asyncio
import os
import time
from pathlib import Path

import pytest

from kinitro.deployments.snapshots import SnapshotStore
from kinitro.types import PolicyRef

SIZE = 1000


class Source:
    """A hub where every repo holds one file of `SIZE` bytes, different each time."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    async def fetch(self, ref: PolicyRef, destination: Path) -> None:
        self.fetched.append(ref.repo)
        (destination / "policy.py").write_bytes(ref.repo.encode().ljust(SIZE))

    async def check(self) -> None:
        return


@pytest.fixture
def source() -> Source:
    return Source()


def store(tmp_path: Path, source: Source, *, room_for: int) -> SnapshotStore:
    return SnapshotStore(tmp_path, source, max_bytes=room_for * SIZE)


def ref(name: str) -> PolicyRef:
    return PolicyRef(f"user/{name}", "ab" * 20)


def present(tmp_path: Path) -> set[str]:
    return {path.parent.name.partition("--")[2] for path in tmp_path.glob("*/*.complete")}


async def use(tmp_path: Path, snapshots: SnapshotStore, name: str, at: int) -> None:
    """Uses a snapshot as if at that second."""
    path = (await snapshots.obtain(ref(name))).path
    os.utime(path.with_name(f"{path.name}.complete"), (at, at))


async def test_what_was_used_least_recently_makes_way(tmp_path: Path, source: Source) -> None:
    snapshots = store(tmp_path, source, room_for=3)
    for at, name in enumerate("abca", start=1000):
        await use(tmp_path, snapshots, name, at)
    await snapshots.obtain(ref("d"))
    assert present(tmp_path) == {"a", "c", "d"}
    assert not (tmp_path / "user--b" / ("ab" * 20)).exists()
    await snapshots.obtain(ref("a"))
    assert source.fetched == ["user/a", "user/b", "user/c", "user/d"]


async def test_what_is_borrowed_stays_even_for_another_process(tmp_path: Path, source: Source) -> None:
    borrowed = await store(tmp_path, source, room_for=1).borrow(ref("a"))
    # A lock belongs to the opening of a file: a second store stands for a second process.
    other = store(tmp_path, source, room_for=1)
    await other.obtain(ref("b"))
    assert present(tmp_path) == {"a", "b"}
    assert (borrowed.snapshot.path / "policy.py").exists()
    borrowed.hold.release()
    borrowed.hold.release()
    await other.obtain(ref("c"))
    assert present(tmp_path) == {"c"}


async def test_one_that_is_larger_than_the_cache_is_kept_while_it_is_needed(tmp_path: Path, source: Source) -> None:
    snapshot = await SnapshotStore(tmp_path, source, max_bytes=1).obtain(ref("a"))
    assert (snapshot.path / "policy.py").exists()


async def test_leftovers_of_killed_downloads_go(tmp_path: Path, source: Source) -> None:
    for name, age_s in (("old", 7200), ("new", 60)):
        (tmp_path / ".staging" / name).mkdir(parents=True)
        os.utime(tmp_path / ".staging" / name, (time.time() - age_s,) * 2)
    await store(tmp_path, source, room_for=9).obtain(ref("a"))
    assert [path.name for path in (tmp_path / ".staging").iterdir()] == ["new"]


async def test_many_that_borrow_and_evict_at_once_never_meet_half_a_snapshot(tmp_path: Path, source: Source) -> None:
    async def work(name: str) -> None:
        snapshots = store(tmp_path, source, room_for=2)
        for _ in range(10):
            borrowed = await snapshots.borrow(ref(name))
            await asyncio.sleep(0.001)
            assert (borrowed.snapshot.path / "policy.py").read_bytes().split() == [f"user/{name}".encode()]
            borrowed.hold.release()

    await asyncio.gather(*(work(name) for name in "aabbccdd"))

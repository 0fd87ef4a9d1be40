# ruff: noqa: ASYNC110, ASYNC240 - it polls real processes
import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kinitro.backends import Memory
from kinitro.backends.process import ProcessBackend, ProcessRun
from kinitro.deployments import Deployment, DeploymentManager, DeploymentSettings, SnapshotStore
from kinitro.errors import InfrastructureError, PolicyError
from kinitro.types import ErrorKind, PolicyRef

from .conftest import until

UID = 7


@pytest.fixture
async def make_manager(
    backend: ProcessBackend, store: SnapshotStore
) -> AsyncIterator[Callable[..., DeploymentManager]]:
    async with AsyncExitStack() as stack:
        managers = []

        def make(**settings) -> DeploymentManager:
            manager = DeploymentManager(backend, store, DeploymentSettings(**{"warmup_timeout_s": 20.0} | settings))
            managers.append(manager)
            manager._reaper = asyncio.create_task(manager._reap())
            stack.push_async_callback(manager.close)
            return manager

        yield make


def pid_of(deployment: Deployment) -> int:
    return int(deployment.identity.split("@")[0])


def started(events: list) -> list:
    return [event for event in events if event["event"] == "miner_deployment_created"]


async def test_ten_that_ask_at_once_share_one_start(make_manager, add_policy, events) -> None:
    manager = make_manager()
    ref = add_policy("HEALTH['max_concurrent_episodes'] = 10\ntime.sleep(0.3)")

    async def use() -> str:
        async with manager.lease(ref, UID) as deployment:
            await asyncio.sleep(0.05)
            return deployment.url

    assert len(set(await asyncio.gather(*(use() for _ in range(10))))) == 1
    assert [(event["miner_uid"], event["repo"]) for event in started(events)] == [(UID, ref.repo)]
    assert sum(event["event"] == "deployment_cache_hit" for event in events) == 9


async def test_repo_names_that_differ_in_case_share_one_server(make_manager, add_policy, events) -> None:
    manager = make_manager()
    ref = add_policy()
    for repo in (ref.repo, ref.repo.upper()):
        async with manager.lease(PolicyRef(repo, ref.revision), UID):
            pass
    assert len(started(events)) == 1


async def test_never_more_episodes_at_once_than_the_policy_takes(make_manager, add_policy) -> None:
    manager = make_manager()
    ref = add_policy("HEALTH['max_concurrent_episodes'] = 2")
    now = most = 0

    async def use() -> None:
        nonlocal now, most
        async with manager.lease(ref, UID):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.03)
            now -= 1

    await asyncio.gather(*(use() for _ in range(7)))
    assert most == 2


async def test_an_unused_server_ends_after_its_time_and_the_next_lease_starts_another(
    make_manager, add_policy, events
) -> None:
    manager = make_manager(ttl_s=0.2)
    ref = add_policy()
    async with manager.lease(ref, UID) as first:
        await asyncio.sleep(0.5)
        assert await first.running.exit_code() is None, "one in use is never ended"
    async with asyncio.timeout(5):
        while await first.running.exit_code() is None:
            await asyncio.sleep(0.02)
    async with manager.lease(ref, UID) as second:
        assert second.identity != first.identity
    assert len(started(events)) == 2


async def test_one_that_is_too_old_is_given_to_nobody_and_ends_when_its_last_user_has_gone(
    make_manager, add_policy
) -> None:
    manager = make_manager(max_age_s=1.0)
    ref = add_policy("HEALTH['max_concurrent_episodes'] = 4")
    async with manager.lease(ref, UID) as old:
        async with manager.lease(ref, UID) as same:
            assert same.identity == old.identity
        await asyncio.sleep(1.1)
        async with manager.lease(ref, UID) as young:
            assert young.identity != old.identity
            assert await old.running.exit_code() is None, "an episode still runs on it"
    async with asyncio.timeout(5):
        while await old.running.exit_code() is None:
            await asyncio.sleep(0.02)


async def test_at_capacity_the_one_unused_for_longest_makes_way(make_manager, add_policy) -> None:
    manager = make_manager(capacity=2)
    refs = [add_policy(name=f"p{number}") for number in range(3)]
    runs = []
    for ref in refs:
        async with manager.lease(ref, UID) as deployment:
            runs.append(deployment.running)
    assert [await run.exit_code() is None for run in runs] == [False, True, True]


async def test_at_capacity_with_all_in_use_the_next_waits(make_manager, add_policy) -> None:
    manager = make_manager(capacity=1)
    first, second = add_policy(name="first"), add_policy(name="second")

    async def use_second() -> float:
        async with manager.lease(second, UID):
            return time.monotonic()

    async with manager.lease(first, UID):
        waiting = asyncio.create_task(use_second())
        await asyncio.sleep(0.5)
        left = time.monotonic()
    assert await waiting > left


async def test_a_crash_at_import_is_reported_at_once_with_its_last_lines_to_all_and_remembered(
    make_manager, add_policy, events
) -> None:
    manager = make_manager()
    ref = add_policy("raise RuntimeError('weights are missing')")

    async def use() -> PolicyError:
        with pytest.raises(PolicyError) as caught:
            async with manager.lease(ref, UID):
                pass
        return caught.value

    began = time.monotonic()
    errors = await asyncio.gather(*(use() for _ in range(10)))
    assert time.monotonic() - began < 5
    assert {error.code for error in errors} == {"died_at_start"}
    assert all("weights are missing" in error.message for error in errors)
    assert all(error.message.startswith("Miner deployment not ready: the policy's server ended") for error in errors)
    began = time.monotonic()
    assert "weights are missing" in (await use()).message
    assert time.monotonic() - began < 0.05
    assert not started(events)


async def test_a_server_that_never_gets_healthy_is_not_ready(make_manager, add_policy) -> None:
    manager = make_manager(warmup_timeout_s=0.5)
    ref = add_policy("HEALTH['model_loaded'] = False")
    with pytest.raises(PolicyError, match=r"^Miner deployment not ready") as caught:
        async with manager.lease(ref, UID):
            pass
    assert caught.value.code == "not_ready"
    assert "--miner-deployment-warmup-timeout" in str(caught.value)


async def test_a_missing_snapshot_without_a_hub_is_ours_and_is_not_remembered(make_manager, add_policy) -> None:
    manager = make_manager()
    ref = PolicyRef("tests/policy", "0" * 40)
    for _ in range(2):
        with pytest.raises(InfrastructureError, match=r"^Miner deployment not ready: .* no hub is set up"):
            async with manager.lease(ref, UID):
                pass


async def test_a_server_that_died_is_the_policys_fault_and_the_next_lease_gets_a_new_one(
    make_manager, add_policy
) -> None:
    manager = make_manager()
    ref = add_policy()
    async with manager.lease(ref, UID) as first:
        await manager.verify(first)
        os.kill(pid_of(first), signal.SIGKILL)
        async with asyncio.timeout(5):
            while await first.running.exit_code() is None:
                await asyncio.sleep(0.01)
        with pytest.raises(PolicyError, match="exit code -9") as caught:
            await manager.verify(first)
        assert caught.value.code == "died"
    async with manager.lease(ref, UID) as second:
        assert second.identity != first.identity
        await manager.verify(second)


async def test_after_a_fault_the_retry_gets_a_fresh_server(make_manager, add_policy) -> None:
    manager = make_manager()
    ref = add_policy()
    with pytest.raises(InfrastructureError):
        async with manager.lease(ref, UID) as first:
            raise InfrastructureError("the simulator failed", code="environment")
    async with manager.lease(ref, UID) as second:
        assert second.identity != first.identity
    async with manager.lease(ref, UID) as third:
        assert third.identity == second.identity


async def test_one_who_gives_up_does_not_stop_the_start_for_others(make_manager, add_policy, events) -> None:
    manager = make_manager()
    ref = add_policy("time.sleep(0.3)")

    async def use() -> None:
        async with manager.lease(ref, UID):
            pass

    hasty, patient = asyncio.create_task(use()), asyncio.create_task(use())
    await asyncio.sleep(0.1)
    hasty.cancel()
    await patient
    assert len(started(events)) == 1


async def test_closing_ends_servers_in_use_and_those_still_starting(
    make_manager, add_policy, backend: ProcessBackend
) -> None:
    manager = make_manager()
    slow = add_policy("time.sleep(60)", name="slow")

    async def use() -> None:
        async with manager.lease(slow, UID):
            pass

    starting = asyncio.create_task(use())
    async with manager.lease(add_policy(name="quick"), UID) as quick:
        pass
    await manager.close()
    assert await quick.running.exit_code() is not None
    assert isinstance((await asyncio.gather(starting, return_exceptions=True))[0], BaseException)
    assert not backend._running


async def test_the_tree_digest_is_that_of_the_files(make_manager, add_policy, store: SnapshotStore) -> None:
    manager = make_manager()
    ref = add_policy()
    async with manager.lease(ref, UID) as deployment:
        assert deployment.tree_digest == (await store.obtain(ref)).tree_digest
        assert Path(await _directory(deployment)) == (await store.obtain(ref)).path


async def test_a_server_that_several_find_dead_gives_its_room_back_once(
    make_manager, add_policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = make_manager(capacity=1)
    ref = add_policy()
    async with manager.lease(ref, UID) as first:
        os.kill(pid_of(first), signal.SIGKILL)

    async def exit_code(_) -> int:
        await asyncio.sleep(0.01)  # as a container's does
        return 1

    with monkeypatch.context() as patched:
        patched.setattr(ProcessRun, "exit_code", exit_code)
        await asyncio.gather(*(manager._living_entry(ref) for _ in range(4)))
    await manager.close()
    assert manager._room._value == 1


async def test_a_start_that_fails_is_billed_once(make_manager, add_policy) -> None:
    manager = make_manager(warmup_timeout_s=2.0)
    never = add_policy("HEALTH['model_loaded'] = False")
    with pytest.raises(PolicyError):
        async with manager.lease(never, UID):
            pass
    assert 2.0 <= manager.bill_starts(never) < 4.0
    assert manager.bill_starts(never) == 0.0


async def test_starts_of_our_making_are_not_billed(make_manager, add_policy) -> None:
    manager = make_manager(capacity=1, ttl_s=0.2)
    slow, other = add_policy("time.sleep(0.5)", name="slow"), add_policy(name="other")

    async def use(ref: PolicyRef) -> None:
        async with manager.lease(ref, UID):
            pass

    await use(slow)
    await use(other)  # it makes way
    await use(slow)
    while manager.is_ready(slow):  # its time to live ends
        await asyncio.sleep(0.05)
    with pytest.raises(InfrastructureError):
        async with manager.lease(slow, UID) as deployment:
            raise InfrastructureError("The environment broke.", code="environment")
    async with manager.lease(slow, UID) as deployment:
        os.kill(pid_of(deployment), signal.SIGSTOP)
        await manager.probe(deployment, ErrorKind.INFRASTRUCTURE)
    await use(slow)
    assert manager.bill_starts(slow) == 0.0


@pytest.mark.parametrize("seen_by", ["the episode", "the next lease", "the probe"])
async def test_the_start_after_a_server_that_broke_by_itself_is_billed(make_manager, add_policy, seen_by: str) -> None:
    manager = make_manager()
    ref = add_policy("time.sleep(0.5)")
    async with manager.lease(ref, UID) as deployment:
        if seen_by == "the probe":
            os.kill(pid_of(deployment), signal.SIGSTOP)
            await manager.probe(deployment, ErrorKind.POLICY)
        else:
            os.kill(pid_of(deployment), signal.SIGKILL)
            while await deployment.running.exit_code() is None:
                await asyncio.sleep(0.02)
        if seen_by == "the episode":
            with pytest.raises(PolicyError):
                await manager.verify(deployment)
    billed = []
    for _ in range(2):
        async with manager.lease(ref, UID):
            pass
        billed.append(manager.bill_starts(ref))
    assert billed[0] >= 0.5
    assert billed[1] == 0.0


async def test_a_failure_of_ours_that_came_late_is_not_waited_for_again_at_once(
    backend: ProcessBackend, tmp_path: Path
) -> None:
    asked = 0

    class SlowHub:
        async def fetch(self, ref: PolicyRef, destination: Path) -> None:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0.5)
            raise InfrastructureError("The hub is slow.", code="hub_timeout")

        async def check(self) -> None:
            return

    async with DeploymentManager(backend, SnapshotStore(tmp_path, SlowHub()), DeploymentSettings()) as manager:
        for wait_s in (0.0, 0.7, 0.0):
            with pytest.raises(InfrastructureError, match="The hub is slow"):
                async with manager.lease(PolicyRef("a/b", "0" * 40), UID):
                    pass
            await asyncio.sleep(wait_s)
    assert asked == 2


async def _directory(deployment) -> str:
    return str(Path(f"/proc/{deployment.identity.split('@')[0]}/cwd").readlink())


@pytest.fixture
def computing(monkeypatch) -> list[str]:
    """What was done to the servers' processors, in order."""
    done: list[str] = []

    def note(what: str):
        async def change(_run: ProcessRun) -> None:
            done.append(what)

        return change

    monkeypatch.setattr(ProcessRun, "pause", note("pause"))
    monkeypatch.setattr(ProcessRun, "resume", note("resume"))
    return done


async def test_a_policy_computes_only_while_one_of_its_episodes_runs(make_manager, add_policy, computing) -> None:
    manager = make_manager()
    ref = add_policy("HEALTH['max_concurrent_episodes'] = 2")
    async with manager.lease(ref, UID):
        async with manager.lease(ref, UID):
            pass
        await asyncio.sleep(1.0)
        assert "pause" not in computing
    await until(lambda: "pause" in computing)
    async with manager.lease(ref, UID):
        assert computing[computing.index("pause") :] == ["pause", "resume"]


async def test_a_policy_whose_start_outlived_whoever_wanted_it_is_paused(make_manager, add_policy, computing) -> None:
    manager, ref = make_manager(), add_policy("time.sleep(0.7)")

    async def use() -> None:
        async with manager.lease(ref, UID):
            raise AssertionError("it gave up before")

    giving_up = asyncio.create_task(use())
    await asyncio.sleep(0.2)
    giving_up.cancel()
    await until(lambda: manager.is_ready(ref))
    await until(lambda: "pause" in computing)


async def test_a_policy_used_again_at_once_is_not_paused_in_between(make_manager, add_policy, computing) -> None:
    manager = make_manager()
    ref = add_policy()
    for _ in range(5):
        async with manager.lease(ref, UID):
            await asyncio.sleep(0.2)
    assert "pause" not in computing


async def test_a_host_short_of_memory_loses_the_policies_that_nobody_uses(
    make_manager, add_policy, backend, monkeypatch
) -> None:
    manager = make_manager()
    used, unused = add_policy(name="used"), add_policy(name="unused")
    async with manager.lease(unused, UID):
        pass
    async with manager.lease(used, UID):
        monkeypatch.setattr(backend, "memory", short_of_memory)
        await until(lambda: not manager.is_ready(unused), 10)
        assert manager.is_ready(used)


async def test_a_start_that_finds_no_memory_is_our_fault_not_the_policys(
    make_manager, add_policy, backend, monkeypatch
) -> None:
    monkeypatch.setattr(backend, "memory", short_of_memory)
    manager = make_manager()
    manager._clock = iter(range(0, 10_000, 40)).__next__
    with pytest.raises(InfrastructureError, match="No host has memory left"):
        async with manager.lease(add_policy(), UID):
            pass


async def short_of_memory(_host: str) -> Memory:
    return Memory(total_bytes=100, available_bytes=9)

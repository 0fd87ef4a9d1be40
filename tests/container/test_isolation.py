"""The isolation is proved for as long as policies run: what happens when somebody takes the firewall rule away."""

import asyncio

import pytest
import structlog

from kinitro.backends.base import LaunchSpec, Limits, Role
from kinitro.backends.docker import firewall
from kinitro.demo.miners import MINERS, write_folder
from kinitro.errors import InfrastructureError
from kinitro.types import ErrorKind

from .conftest import docker, in_host_network, until

SERVER = "import http.server, sys\nhttp.server.HTTPServer((sys.argv[1], int(sys.argv[2])), None).serve_forever()\n"


def take_the_rules_away() -> None:
    """As `iptables -F INPUT` would, but only ours: others may use this host."""
    in_host_network(
        "for kind in iptables iptables-legacy; do $kind -S INPUT | grep -- '-i kn' | sed 's/^-A/-D/' | "
        "while read -r rule; do $kind $rule; done; done"
    )


def policies() -> list[str]:
    return docker("ps", "-q", "--filter", "label=kinitro.role=policy").split()


def sentinels() -> list[str]:
    return docker("ps", "-q", "--filter", "label=kinitro.role=sentinel").split()


@pytest.fixture
def spec(tmp_path) -> LaunchSpec:
    (tmp_path / "server.py").write_text(SERVER)
    command = ("python", "server.py", "{host}", "{port}")
    return LaunchSpec("The policy", Role.POLICY, command, tmp_path, limits=Limits(memory_bytes=2**29, cpus=1.0))


async def test_a_rule_that_is_taken_away_ends_the_policies_and_is_put_back(backend, spec) -> None:
    running = await backend.launch(spec)
    with structlog.testing.capture_logs() as events:
        await asyncio.to_thread(take_the_rules_away)
        await until(lambda: any(event["event"] == "isolation_lost" for event in events), 30)
    with pytest.raises(InfrastructureError, match=r"no longer isolated .* a container reached") as lost:
        await running.exit_code()
    assert lost.value.code == "isolation_lost"
    await until(lambda: policies() == [], 15)
    await until(lambda: "-i kn" in in_host_network("iptables -S INPUT; iptables-legacy -S INPUT"), 30)
    again = await backend.launch(spec)
    assert await again.exit_code() is None


async def test_sentinels_that_are_gone_are_posted_again_and_cost_no_policy(backend, spec) -> None:
    running = await backend.launch(spec)
    before = sentinels()
    docker("rm", "-f", *before)
    await until(lambda: len(sentinels()) == len(before) and not set(before) & set(sentinels()), 30)
    await backend.launch(spec)
    assert await running.exit_code() is None


@pytest.mark.timeout(240)
async def test_an_executor_runs_no_policy_while_the_rule_stays_away(
    api, store, run_executor, tmp_path, monkeypatch
) -> None:
    write_folder(MINERS[2], tmp_path / "honest")
    ref = store.add_local(tmp_path / "honest", MINERS[2].repo)
    with structlog.testing.capture_logs() as events:
        async with run_executor(max_concurrent=1):
            with monkeypatch.context() as patch:
                patch.setattr(firewall, "install", lambda *_: None)  # whoever takes it away does so again and again
                await asyncio.to_thread(take_the_rules_away)
                await until(lambda: any(event["event"] == "isolation_lost" for event in events), 30)
                (task,) = api.add(ref, env_id="metaworld/drawer-close-v3")
                await until(lambda: task in api.results, 60)
                assert api.results[task].error_kind is ErrorKind.INFRASTRUCTURE
                assert "no longer isolated" in api.results[task].error
                assert "iptables -S INPUT" in api.results[task].error
                assert not any(event["event"] == "miner_deployment_created" for event in events)
            await until(lambda: api.results[task].success, 90)

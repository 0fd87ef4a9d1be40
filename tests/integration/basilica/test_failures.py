"""The service misbehaves: each time it is our fault, said clearly, and nothing is left to pay for."""

import asyncio
import contextlib

import pytest
from pydantic import SecretStr

from kinitro.backends.base import LaunchSpec, Limits, Role
from kinitro.backends.basilica import BasilicaBackend
from kinitro.deployments.hub import HuggingFaceHub
from kinitro.environments.protocol import SECRET_VARIABLE
from kinitro.errors import ConfigurationError, InfrastructureError
from kinitro.testing.basilica import BasilicaFault
from kinitro.testing.hub import HubFault
from kinitro.types import ErrorKind

from .conftest import LINE_IMAGE, READ_TOKEN, TOKEN, changed, until

RIGHT = "def act(obs):\n    return {'continuous': {'ee_twist': [1.0, 0, 0, 0, 0, 0]}}\n"
WAITS = "def act(obs):\n    time.sleep(0.2)\n    return {'continuous': {}}\n"


@pytest.fixture
def spec(tmp_path) -> LaunchSpec:
    """A policy small enough to be handed over without a hub."""
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "server.py").write_text("import time; time.sleep(600)")
    return LaunchSpec("The policy", Role.POLICY, ("python", "server.py"), folder, limits=Limits(cpus=1.0))


# The token


async def test_without_a_token_the_executor_says_which_to_set(run_executor, monkeypatch) -> None:
    monkeypatch.delenv("BASILICA_API_TOKEN")
    with pytest.raises(ConfigurationError, match=r"No miner endpoint available.*KINITRO_EXECUTOR_MINER_BASILICA_API_T"):
        async with run_executor():
            pass


async def test_a_wrong_token_is_refused_at_the_start(run_executor, basilica) -> None:
    with pytest.raises(ConfigurationError, match=r"Basilica refuses our token.*KINITRO_EXECUTOR_MINER_BASILICA_API_TO"):
        async with run_executor(miner_basilica_api_token=SecretStr("basilica_wrong")):
            pass
    assert basilica.every == []


async def test_our_own_variable_counts_before_the_sdks(run_executor, basilica, monkeypatch) -> None:
    monkeypatch.setenv("BASILICA_API_TOKEN", "basilica_wrong")
    async with run_executor(miner_basilica_api_token=SecretStr(TOKEN)):
        assert basilica.seen


async def test_a_token_that_is_refused_later_is_our_fault(backend, basilica, spec) -> None:
    basilica.token = "basilica_another"
    with pytest.raises(InfrastructureError, match="refuses our token") as caught:
        await backend.launch(spec)
    assert caught.value.code == "basilica_refused"
    basilica.token = TOKEN


async def test_an_address_without_https_is_refused_where_a_token_would_go_there(run_executor, monkeypatch) -> None:
    monkeypatch.setenv("BASILICA_API_URL", "http://api.example.com")
    with pytest.raises(ConfigurationError, match=r"BASILICA_API_URL is 'http://api\.example\.com'.*https://"):
        async with run_executor():
            pass


async def test_a_policy_whose_address_is_not_https_is_never_spoken_to(backend, basilica, spec) -> None:
    basilica.host = "0.0.0.0"
    with pytest.raises(InfrastructureError, match="not https"):
        await backend.launch(spec)
    assert basilica.alive == {}


async def test_an_environment_whose_address_is_not_https_gets_no_secret(backend, basilica, tmp_path) -> None:
    basilica.host = "0.0.0.0"  # this machine, but no loopback address
    environment = LaunchSpec("The environment", Role.ENVIRONMENT, (), tmp_path, image=LINE_IMAGE)
    running = await backend.launch(environment)
    with pytest.raises(InfrastructureError, match="not https"):
        await running.call("evaluate", {"timeout": 5.0, "secret": "s"}, {SECRET_VARIABLE: "s"}, 10.0)
    assert basilica.alive == {}


# What a hub's token may do


@pytest.mark.parametrize(
    ("access", "taken"),
    [
        ({"role": "read"}, True),
        ({"role": "write"}, False),
        ({"role": "admin"}, False),
        ({}, False),
        ({"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": ["repo.content.read"]}]}}, True),
        ({"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": ["repo.content.read", "repo.write"]}]}}, 0),
        ({"role": "fineGrained", "fineGrained": {"global": ["discussion.write"], "scoped": []}}, False),
        ({"role": "fineGrained", "fineGrained": {"scoped": []}}, False),
    ],
)
async def test_only_a_token_of_the_hub_that_can_do_nothing_but_read_is_taken(access, taken, model_hub) -> None:
    model_hub.access[READ_TOKEN] = access
    with contextlib.nullcontext() if taken else pytest.raises(ConfigurationError, match="read-only"):
        await HuggingFaceHub(SecretStr(READ_TOKEN)).require_read_only()


async def test_the_executor_does_not_start_with_a_token_that_can_write(run_executor, model_hub, basilica) -> None:
    with pytest.raises(ConfigurationError, match=r"can write.*unset it"):
        async with run_executor(miner_hf_token=SecretStr("hf_write")):
            pass
    assert basilica.every == []


async def test_a_hub_that_can_not_say_what_a_token_may_do_is_no_permission(run_executor, model_hub) -> None:
    model_hub.faults.append(HubFault(401, "/api/whoami-v2"))
    with pytest.raises(InfrastructureError, match="KINITRO_EXECUTOR_MINER_HF_TOKEN"):
        async with run_executor(miner_hf_token=SecretStr(READ_TOKEN)):
            pass


# Quota and rate


async def test_a_quota_is_said_at_once(backend, basilica, spec) -> None:
    basilica.quota = 0
    with pytest.raises(InfrastructureError, match=r"Quota exceeded.*--max-concurrent") as caught:
        await backend.launch(spec)
    assert caught.value.code == "basilica_quota"
    assert [method for method, path in basilica.seen if method == "POST"] == ["POST"], "asking again would not help"


async def test_a_rate_limit_is_waited_out(backend, basilica, spec) -> None:
    basilica.faults.append(BasilicaFault(429, method="POST", times=2))
    await backend.launch(spec)


async def test_a_rate_limit_that_lasts_is_our_fault(backend, basilica, spec) -> None:
    basilica.faults.append(BasilicaFault(429, method="POST"))
    with pytest.raises(InfrastructureError, match="Rate limit") as caught:
        await backend.launch(spec)
    assert caught.value.code == "basilica_rate_limited"


async def test_a_creation_whose_answer_got_lost_makes_one_deployment(backend, basilica, spec, monkeypatch) -> None:
    create = basilica._start
    tries = []

    async def create_and_lose(pod) -> None:
        await create(pod)
        if not tries:
            tries.append(pod.name)
            basilica.faults.append(BasilicaFault(502, method="POST", times=1))
            raise RuntimeError("the answer gets lost")

    monkeypatch.setattr(basilica, "_start", create_and_lose)
    running = await backend.launch(spec)
    assert running.identity.startswith(tries[0])
    assert [pod.name for pod in basilica.every] == tries


async def test_a_service_that_is_away_is_our_fault(settings, basilica, spec) -> None:
    async with BasilicaBackend(settings) as backend:
        basilica.faults.append(BasilicaFault(503))
        with pytest.raises(InfrastructureError) as caught:
            await backend.launch(spec)
        assert caught.value.code == "basilica_error"
        basilica.faults.clear()


# A deployment's life


async def test_one_that_never_gets_ready_is_our_fault_and_is_deleted(settings, basilica, spec) -> None:
    basilica.never_ready.add("kinitro-")
    async with BasilicaBackend(changed(settings, start_s=1.0)) as backend:
        with pytest.raises(InfrastructureError, match="Miner deployment not ready") as caught:
            await backend.launch(spec)
        assert caught.value.code == "deployment_not_ready"
        assert basilica.alive == {}
        assert backend.usage()["policy"].alive == 0


async def test_an_image_that_does_not_run_our_program_is_our_fault(settings, basilica, spec, tmp_path) -> None:
    (tmp_path / "env").symlink_to("/usr/bin/env")
    basilica.environment["PATH"] = str(tmp_path)  # no Python there
    async with BasilicaBackend(settings) as backend:
        with pytest.raises(InfrastructureError) as caught:
            await backend.launch(spec)
        assert caught.value.code == "deployment_failed"
        assert "python" in str(caught.value)
        assert basilica.alive == {}


async def test_one_that_vanishes_in_an_episode_is_our_fault_and_the_task_is_run_again(
    api, basilica, upload, run_executor
) -> None:
    (task,) = api.add(upload(WAITS))
    async with run_executor(max_timesteps=40):
        await until(lambda: any("-evaluate-" in name for name in basilica.alive))
        await until(lambda: task in api.started)
        await asyncio.sleep(7)  # affinetes looks for a deployment every 5 s
        (name,) = [name for name in basilica.alive if name.startswith("kinitro-")]
        await basilica.vanish(name)
        await until(lambda: task in api.results)
        first = api.results.pop(task)
        assert first.error_kind is ErrorKind.INFRASTRUCTURE
        assert "vanished from Basilica" in str(first.error)
        await until(lambda: task in api.results)
        assert api.results[task].error_kind is None
    assert basilica.alive == {}


async def test_one_that_can_not_be_deleted_is_logged_counted_and_tried_again(settings, basilica, spec, events) -> None:
    async with BasilicaBackend(changed(settings, look_s=0.2)) as backend:
        basilica.undeletable.add("kinitro-")
        running = await backend.launch(spec)
        await running.stop()
        assert "deployment_not_deleted" in [event["event"] for event in events]
        assert backend.usage()["policy"].alive == 1, "it still costs money"
        basilica.undeletable.clear()
        await until(lambda: backend.usage()["policy"].alive == 0)
        assert basilica.alive == {}
        usage = backend.usage()["policy"]
        assert (usage.created, usage.seconds > 0) == (1, True)


async def test_nothing_is_taken_from_other_executors_or_other_users_of_the_account(settings, basilica, spec) -> None:
    async with BasilicaBackend(settings) as first:
        running = await first.launch(spec)
        service = first._run.service
        foreign = changed(first._wanted(spec, "s"), name="somebody-elses-app")
        await service.create(foreign)
        async with BasilicaBackend(changed(settings, look_s=0.1)) as second:
            await second.launch(spec)
            await asyncio.sleep(0.5)
        assert running.identity.partition("@")[0] in basilica.alive
    assert list(basilica.alive) == ["somebody-elses-app"]


async def test_a_policy_that_needs_longer_than_it_has_is_not_ready_by_its_own_fault(api, upload, run_executor) -> None:
    (task,) = api.add(upload("time.sleep(60)"))
    async with run_executor(miner_deployment_warmup_timeout=3.0):
        await until(lambda: task in api.results)
    assert api.results[task].error_kind is ErrorKind.POLICY
    assert str(api.results[task].error).startswith("Miner deployment not ready")


async def test_all_of_it_goes_into_the_log_without_a_secret(api, basilica, upload, run_executor, events) -> None:
    (task,) = api.add(upload(RIGHT))
    async with run_executor(miner_hf_token=SecretStr(READ_TOKEN)):
        await until(lambda: task in api.results)
    text = str(events)
    secrets = [pod.asked["env"].get("KINITRO_POD_SECRET") for pod in basilica.every]
    for secret in (TOKEN, READ_TOKEN, *filter(None, secrets)):
        assert secret not in text
    told = {event["role"]: event for event in events if event["event"] == "deployment_usage"}
    assert told["policy"]["created"] == told["environment"]["created"] == 1
    assert told["policy"]["seconds_alive"] > 0

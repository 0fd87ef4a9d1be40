import asyncio
import json
import os
import subprocess
import sys

import httpx
import pytest

from kinitro.environments.base import EnvironmentOptions, EnvironmentSpec
from kinitro.environments.protocol import SECRET_VARIABLE, EvaluateRequest
from kinitro.environments.remote import RemoteEnvironmentServer
from kinitro.environments.server import Catalogue, build_app
from kinitro.errors import ConfigurationError, EnvironmentFault
from kinitro.testing.line_world import LINE_REACH, LineWorld, find
from kinitro.types import ErrorKind

from .conftest import HEALTHY, RIGHT, free_port, http_reply

SECRET = "a-load's-own"


class Built:
    """Counts what the server builds."""

    def __init__(self, fail_first: bool = False) -> None:
        self.worlds: list[LineWorld] = []
        self._fail_first = fail_first

    def build(self, spec: EnvironmentSpec, options: EnvironmentOptions) -> LineWorld:
        world = FailingWorld(spec, options) if self._fail_first and not self.worlds else LineWorld(spec, options)
        self.worlds.append(world)
        return world

    def catalogue(self) -> Catalogue:
        return Catalogue(specs=lambda: (LINE_REACH,), find=find, build=self.build)


class FailingWorld(LineWorld):
    def step(self, action):
        raise ZeroDivisionError("deep inside the simulator")


async def right(_path, _body, writer) -> None:
    writer.write(http_reply(RIGHT))


def request(base_url: str, /, **changes: object) -> EvaluateRequest:
    return EvaluateRequest.model_validate(
        {"task_id": "t-1", "seed": 5, "policy_seed": 6, "base_url": base_url, "env_id": "line/reach-v0"} | changes
    )


def body(base_url: str, /, **changes: object) -> dict[str, object]:
    return request(base_url).model_dump(mode="json") | {"secret": SECRET} | changes


async def test_an_evaluation_comes_back_in_the_contracts_shape(raw_policy, served) -> None:
    url, policy = await served(build_app(Built().catalogue(), SECRET)), await raw_policy(right)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        answer = (await http.post("/evaluate", json=body(policy))).json()
    assert set(answer) == {"task_name", "score", "success", "time_taken", "extra"}
    assert (answer["task_name"], answer["score"], answer["success"]) == ("reach-v0", 1.0, True)
    assert set(answer["extra"]) >= {
        "seed", "env_id", "timesteps", "total_reward", "mean_action_time", "max_action_time", "policy_seconds",
        "trace_digest",
    }  # fmt: skip
    assert (answer["extra"]["seed"], answer["extra"]["env_id"]) == (5, "line/reach-v0")
    assert answer["extra"]["facts"].keys() == {"goal_m"}


async def test_health_and_the_list_need_no_secret(served) -> None:
    async with RemoteEnvironmentServer(await served(build_app(Built().catalogue(), SECRET)), SECRET) as remote:
        health = await remote.health()
        assert (health.status, health.busy, health.episodes) == ("ok", False, 0)
        assert [line.env_id for line in (await remote.environments()).environments] == ["line/reach-v0"]


@pytest.mark.parametrize("secret", [None, "", "wrong", SECRET + "x", 7, "\ud800", "é"])
async def test_a_call_without_the_secret_is_refused(served, secret: object) -> None:
    url = await served(build_app(Built().catalogue(), SECRET))
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        answer = await http.post("/evaluate", content=json.dumps(body("http://127.0.0.1:1", secret=secret)))
    assert answer.status_code == 403
    assert SECRET_VARIABLE in answer.json()["error"]
    assert SECRET not in answer.text


def test_a_server_without_a_secret_does_not_start() -> None:
    with pytest.raises(ConfigurationError, match=SECRET_VARIABLE):
        build_app(Built().catalogue(), "")


@pytest.mark.parametrize(
    ("changes", "status", "named"),
    [
        ({"env_id": "line/unknown-v9"}, 404, "env_id"),
        ({"env_id": "nonsense"}, 422, "env_id"),
        ({"base_url": "file:///etc/passwd"}, 422, "base_url"),
        ({"base_url": "http://"}, 422, "base_url"),
        ({"seed": -1}, 422, "seed"),
        ({"seed": None}, 422, "seed"),
        ({"timeout": 0}, 422, "timeout"),
        ({"max_timesteps": 0}, 422, "max_timesteps"),
        ({"stray": 1}, 422, "stray"),
    ],
)
async def test_bad_input_is_named(served, changes: dict[str, object], status: int, named: str) -> None:
    url = await served(build_app(Built().catalogue(), SECRET))
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        answer = await http.post("/evaluate", json=body("http://127.0.0.1:1", **changes))
    assert answer.status_code == status
    assert named in answer.json()["error"]


@pytest.mark.parametrize(("content", "status"), [(b"{", 422), (b"[]", 422), (b"[" * 60_000, 422), (b" " * 70_000, 413)])
async def test_a_body_that_is_no_request_is_refused(served, content: bytes, status: int) -> None:
    url = await served(build_app(Built().catalogue(), SECRET))
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        assert (await http.post("/evaluate", content=content)).status_code == status


async def test_a_second_episode_at_the_same_time_is_refused(raw_policy, served) -> None:
    asked = asyncio.Event()

    async def thoughtful(_path, _body, writer):
        asked.set()
        await asyncio.sleep(0.3)
        writer.write(http_reply(RIGHT))

    url, policy = await served(build_app(Built().catalogue(), SECRET)), await raw_policy(thoughtful)
    async with RemoteEnvironmentServer(url, SECRET) as first, RemoteEnvironmentServer(url, SECRET) as second:
        running = asyncio.create_task(first.evaluate(request(policy, max_timesteps=2), 10))
        await asked.wait()
        assert (await second.health()).busy
        with pytest.raises(EnvironmentFault, match="409") as caught:
            await second.evaluate(request(policy), 10)
        assert caught.value.code == "environment_refused"
        assert (await running).error is None


async def test_a_caller_that_goes_away_frees_the_server(raw_policy, served) -> None:
    asked = asyncio.Event()

    async def silent(_path, _body, _writer):
        asked.set()
        await asyncio.sleep(30)

    url, policy = await served(build_app(Built().catalogue(), SECRET)), await raw_policy(silent)
    async with RemoteEnvironmentServer(url, SECRET) as remote:
        with pytest.raises(EnvironmentFault) as caught:
            await remote.evaluate(request(policy, action_timeout=20), deadline_s=0.3)
        assert caught.value.code == "environment_timeout"
        assert asked.is_set()
        async with asyncio.timeout(2):
            while (await remote.health()).busy:  # noqa: ASYNC110 (asks another service)
                await asyncio.sleep(0.01)


async def test_one_simulator_serves_many_episodes(raw_policy, served) -> None:
    built = Built()
    url, policy = await served(build_app(built.catalogue(), SECRET)), await raw_policy(right)
    async with RemoteEnvironmentServer(url, SECRET) as remote:
        replies = [await remote.evaluate(request(policy, seed=seed), 10) for seed in (1, 2, 1)]
    assert len(built.worlds) == 1
    assert replies[0].extra.trace_digest == replies[2].extra.trace_digest != replies[1].extra.trace_digest


async def test_a_broken_simulator_is_our_fault_and_built_anew(raw_policy, served) -> None:
    built = Built(fail_first=True)
    url, policy = await served(build_app(built.catalogue(), SECRET)), await raw_policy(right)
    async with RemoteEnvironmentServer(url, SECRET) as remote:
        broken = await remote.evaluate(request(policy), 10)
        assert (broken.error_kind, broken.extra.error_code) == (ErrorKind.INFRASTRUCTURE, "simulator_failed")
        assert "deep inside the simulator" in (broken.error or "")
        assert (await remote.evaluate(request(policy), 10)).success
    assert len(built.worlds) == 2


@pytest.mark.parametrize(
    ("wanted", "asked_for", "rendered"), [(True, True, True), (False, True, False), (True, False, False)]
)
async def test_images_are_rendered_only_for_a_policy_that_needs_them(
    raw_policy, served, wanted: bool, asked_for: bool, rendered: bool
) -> None:
    built, seen = Built(), {}

    async def looking(_path, content, writer):
        seen.update(json.loads(content)["obs"])
        writer.write(http_reply(RIGHT))

    policy = await raw_policy(looking, health={"needs_images": wanted})
    url = await served(build_app(built.catalogue(), SECRET))
    async with RemoteEnvironmentServer(url, SECRET) as remote:
        await remote.evaluate(request(policy, use_images=asked_for), 10)
    assert bool(seen["rgb"]) is rendered
    assert built.worlds[0].options.images is rendered


@pytest.mark.parametrize(
    ("images", "wanted", "drawn"), [(True, True, True), (True, False, False), (False, True, False)]
)
async def test_depth_is_drawn_for_a_policy_that_asks_for_it_and_sees(raw_policy, served, images, wanted, drawn) -> None:
    built = Built()
    url = await served(build_app(built.catalogue(), SECRET))
    policy = await raw_policy(right, health={"needs_images": images, "needs_depth": wanted})
    async with RemoteEnvironmentServer(url, SECRET) as remote:
        await remote.evaluate(request(policy), 10)
    assert built.worlds[0].options.depth is drawn


@pytest.mark.parametrize("health", [{"status": "starting"}, {"model_loaded": False}, {"formats": 3}])
async def test_a_policy_that_is_not_healthy_fails_its_episode(raw_policy, served, health: dict[str, object]) -> None:
    url, policy = await served(build_app(Built().catalogue(), SECRET)), await raw_policy(right, health=health)
    async with RemoteEnvironmentServer(url, SECRET) as remote:
        reply = await remote.evaluate(request(policy), 10)
    assert (reply.success, reply.error_kind, reply.extra.timesteps) == (False, ErrorKind.POLICY, 0)


async def test_time_spent_in_health_counts_as_the_policys(raw_policy, served) -> None:
    async def slow(path, _body, writer):
        if path == "/health":
            await asyncio.sleep(0.3)
            writer.write(http_reply(HEALTHY))
        else:
            writer.write(http_reply({"status": "ok", "episode_id": "e"} if path == "/reset" else RIGHT))

    url, policy = await served(build_app(Built().catalogue(), SECRET)), await raw_policy(slow, everything=True)
    async with RemoteEnvironmentServer(url, SECRET) as remote:
        reply = await remote.evaluate(request(policy, action_timeout=5), 30)
    assert reply.success
    assert reply.extra.policy_seconds >= 0.3


async def test_a_policy_that_is_not_there_fails_its_episode(served) -> None:
    async with RemoteEnvironmentServer(await served(build_app(Built().catalogue(), SECRET)), SECRET) as remote:
        reply = await remote.evaluate(request("http://127.0.0.1:1"), 10)
    assert (reply.error_kind, reply.extra.error_code) == (ErrorKind.POLICY, "disconnected")
    assert reply.result().score == 0.0


async def test_an_environment_server_that_is_not_there_is_our_fault() -> None:
    async with RemoteEnvironmentServer("http://127.0.0.1:1", SECRET) as remote:
        with pytest.raises(EnvironmentFault) as caught:
            await remote.health()
    assert caught.value.code == "environment_unreachable"


@pytest.mark.parametrize("answer", [b"{}", b"nonsense", b'{"task_name": 1}', b"x" * 2_000_000, b'{"score": NaN}'])
async def test_an_environment_server_that_talks_nonsense_is_our_fault(raw_policy, answer: bytes) -> None:
    async def babbling(_path, _body, writer):
        writer.write(http_reply(answer))

    async with RemoteEnvironmentServer(await raw_policy(babbling, everything=True), SECRET) as remote:
        with pytest.raises(EnvironmentFault) as caught:
            await remote.evaluate(request("http://127.0.0.1:1"), 5)
    assert caught.value.code == "environment_reply"


def start_module(secret: str | None, port: int) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != SECRET_VARIABLE}
    if secret is not None:
        environment[SECRET_VARIABLE] = secret
    return subprocess.Popen(
        [sys.executable, "-m", "kinitro.environments.server", "--port", str(port)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_without_a_secret_says_what_to_set() -> None:
    process = start_module(None, free_port())
    _stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert stderr.count("\n") == 1
    assert SECRET_VARIABLE in stderr


async def test_the_command_lists_this_installations_environments() -> None:
    port = free_port()
    process = start_module(SECRET, port)
    try:
        async with RemoteEnvironmentServer(f"http://127.0.0.1:{port}", SECRET) as remote, asyncio.timeout(20):
            while True:
                try:
                    offered = await remote.environments()
                except EnvironmentFault:
                    await asyncio.sleep(0.05)
                else:
                    break
        assert "metaworld/reach-v3" in {line.env_id for line in offered.environments}
    finally:
        process.terminate()
        process.communicate(timeout=20)

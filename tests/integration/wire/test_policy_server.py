import asyncio
import time

import httpx
import msgpack
import numpy as np
import pytest

from kinitro.errors import PolicyError
from kinitro.policy.client import PolicyClient
from kinitro.policy.codec import ActionSpace
from kinitro.policy.messages import Observation, TaskConfig

SPACE = ActionSpace({"ee_twist": 6, "gripper": 1})
TASK = {"env_id": "line/reach-v0", "env_name": "line", "task_name": "reach-v0", "seed": 3, "task_id": "t"}

COUNTING = """
import numpy as np
class Policy:
    needs_images = False
    max_concurrent_episodes = 4
    def reset(self, task, seed):
        return {"seed": seed, "n": 0}
    def act(self, obs, state):
        state["n"] += 1
        return {"continuous": {"ee_twist": np.array([state["n"], state["seed"], 0, 0, 0, 0]) / 100, "gripper": 0.5}}
"""

BATCHING = """
import time
class Policy:
    max_concurrent_episodes = 8
    def reset(self, task, seed):
        return seed
    def act(self, obs, state):
        time.sleep(0.1)
        return {"continuous": {"ee_twist": [1 / 100, state / 100, 0, 0, 0, 0]}}
    def act_batch(self, observations, states):
        time.sleep(0.1)
        return [{"continuous": {"ee_twist": [len(states) / 100, state / 100, 0, 0, 0, 0]}} for state in states]
"""

FAILING = """
class Policy:
    def reset(self, task, seed):
        if seed == 13:
            raise StopIteration("unlucky")
        return seed
    def act(self, obs, state):
        if state == 9:
            raise SystemExit("enough")
        if state == 1:
            raise RuntimeError("out of ideas")
        if state == 2:
            return [0.0]
        if state == 3:
            return {"continuous": {"ee_twist": [float("nan")] * 6}}
        return {"continuous": {"ee_twist": [0.0] * 6}}
    def act_batch(self, observations, states):
        return None
"""


async def reset(http: httpx.AsyncClient, seed: int = 3) -> str:
    answer = await http.post("/reset", json={"task_config": TASK | {"seed": seed}})
    assert answer.status_code == 200, answer.text
    return answer.json()["episode_id"]


async def act(http: httpx.AsyncClient, **body: object) -> httpx.Response:
    return await http.post("/act", json={"obs": {"proprio": {"ee_pos": [0, 0, 0]}}, **body})


async def twist(http: httpx.AsyncClient, **body: object) -> list[float]:
    return [round(value * 100) for value in (await act(http, **body)).json()["action"]["continuous"]["ee_twist"]]


async def test_health_says_what_the_policy_wants(policy_process) -> None:
    url, _process = await policy_process(COUNTING)
    async with PolicyClient(url) as client:
        health = await client.health()
    assert health.model_loaded
    assert (health.max_concurrent_episodes, health.needs_images, health.formats) == (4, False, ("json", "msgpack"))
    assert health.needs_depth is False


async def test_episodes_are_kept_apart_and_the_latest_is_meant_when_none_is_named(policy_process) -> None:
    url, _process = await policy_process(COUNTING)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        first, second = await reset(http, 1), await reset(http, 2)
        assert await twist(http, episode_id=first) == [1, 1, 0, 0, 0, 0]
        assert await twist(http, episode_id=first) == [2, 1, 0, 0, 0, 0]
        assert await twist(http, episode_id=second) == [1, 2, 0, 0, 0, 0]
        assert await twist(http, episode_id=first) == [3, 1, 0, 0, 0, 0]
        await reset(http, 7)
        assert await twist(http) == [1, 7, 0, 0, 0, 0]


async def test_forgotten_and_unknown_episodes_are_told_to_reset(policy_process) -> None:
    url, _process = await policy_process(COUNTING)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        assert (await act(http)).status_code == 409
        oldest = await reset(http)
        for _ in range(20):
            await reset(http)
        for unknown in (oldest, "never", 5, ["x"]):
            answer = await act(http, episode_id=unknown)
            assert answer.status_code == 404
            assert "call /reset first" in answer.json()["error"]


async def test_requests_that_arrive_together_are_one_batch(policy_process) -> None:
    url, _process = await policy_process(BATCHING)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as http:
        episodes = [await reset(http, seed) for seed in range(5)]
        twists = await asyncio.gather(*(twist(http, episode_id=episode) for episode in episodes))
    assert [values[1] for values in twists] == [0, 1, 2, 3, 4]
    assert max(values[0] for values in twists) >= 4


async def test_health_answers_while_the_policy_thinks(policy_process) -> None:
    url, _process = await policy_process("import time\n" + COUNTING.replace('state["n"] += 1', "time.sleep(1)"))
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        episode = await reset(http)
        thinking = asyncio.create_task(act(http, episode_id=episode))
        await asyncio.sleep(0.05)
        assert (await http.get("/health", timeout=0.5)).status_code == 200
        assert not thinking.done()
        await thinking


async def test_a_policys_own_exception_is_a_500_that_says_it(policy_process) -> None:
    url, _process = await policy_process(FAILING)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        answers = {seed: await act(http, episode_id=await reset(http, seed)) for seed in (9, 1, 2, 3, 4)}
        unlucky = await http.post("/reset", json={"task_config": TASK | {"seed": 13}})
    assert answers[1].json()["error"] == "RuntimeError: out of ideas"
    assert "not a dict" in answers[2].json()["error"]
    assert "'ee_twist' that is not finite" in answers[3].json()["error"]
    assert {seed: answer.status_code for seed, answer in answers.items()} == {9: 500, 1: 500, 2: 500, 3: 500, 4: 200}
    assert unlucky.status_code == 500
    assert "unlucky" in unlucky.json()["error"]


async def test_a_failing_batch_answers_everyone(policy_process) -> None:
    url, _process = await policy_process(FAILING)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        episodes = [await reset(http, seed) for seed in (5, 6, 7, 8)]
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(act(http, episode_id=episode) for episode in episodes))
    assert {answer.status_code for answer in answers} <= {200, 500}


BAD_REQUESTS = [
    ("/act", b"{", 400),
    ("/act", b"[1]", 422),
    ("/act", b'{"obs": 1}', 422),
    ("/act", b'{"obs": {"proprio": {"x": ["a"]}}}', 422),
    ("/act", b'{"obs": {"rgb": {"c": {"data": "AA=="}}}}', 422),
    ("/reset", b"{}", 422),
    ("/reset", b'{"task_config": {"seed": "x"}}', 422),
    ("/nowhere", b"{}", 404),
]


async def test_bad_requests_are_the_callers_fault_and_harm_nobody(policy_process) -> None:
    url, _process = await policy_process(COUNTING)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        episode = await reset(http)
        for path, body, status in BAD_REQUESTS:
            answer = await http.post(path, content=body)
            assert (path, body, answer.status_code) == (path, body, status)
        assert await twist(http, episode_id=episode) == [1, 3, 0, 0, 0, 0]


async def test_each_of_several_waiting_episodes_is_answered_as_soon_as_it_is_done(policy_process) -> None:
    url, _process = await policy_process("import time\n" + COUNTING.replace('state["n"] += 1', "time.sleep(0.2)"))
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        episodes = [await reset(http, seed) for seed in range(4)]
        waiting = [asyncio.create_task(act(http, episode_id=episode)) for episode in episodes]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert sum(task.done() for task in waiting) < 4
        await asyncio.gather(*waiting)


async def test_msgpack_is_answered_in_msgpack(policy_process) -> None:
    url, _process = await policy_process(COUNTING)
    headers = {"Content-Type": "application/msgpack"}
    async with httpx.AsyncClient(base_url=url, trust_env=False, headers=headers) as http:
        answer = await http.post("/reset", content=msgpack.packb({"task_config": TASK}))
    assert answer.headers["content-type"] == "application/msgpack"
    assert msgpack.unpackb(answer.content)["status"] == "ok"


SEEING = """
class Policy:
    def reset(self, task, seed):
        return None
    def act(self, obs, state):
        image = obs["rgb"]["front"]
        return {"continuous": {"ee_twist": [image[1, 0, 2] / 255, image.shape[0] / 100, 0, 0, 0, 0]}}
"""


@pytest.mark.parametrize("ask_health", [False, True], ids=["json", "msgpack"])
async def test_images_reach_the_policy_in_both_formats(policy_process, ask_health: bool) -> None:
    url, _process = await policy_process(SEEING)
    image = np.zeros((84, 84, 3), np.uint8)
    image[1, 0, 2] = 255
    async with PolicyClient(url) as client:
        if ask_health:
            await client.health()
        await client.reset(TaskConfig("a/b", "a", "b", 1, "t"))
        action = await client.act(Observation({}, rgb={"front": image}), SPACE, 2.0)
    assert action.continuous["ee_twist"].tolist() == [1.0, 0.84, 0, 0, 0, 0]


async def test_no_answer_waits_for_the_callers_acknowledgement(policy_process) -> None:
    """It would cost 40 ms each time: Nagle's algorithm on one side, a delayed acknowledgement on the other."""
    url, _process = await policy_process(COUNTING)
    took = []
    async with PolicyClient(url) as client:
        await client.reset(TaskConfig("a/b", "a", "b", 1, "t"))
        for _ in range(50):
            began = time.monotonic()
            await client.act(Observation({}), SPACE, 2.0)
            took.append(time.monotonic() - began)
    assert min(took) < 0.03


async def test_a_killed_policy_is_a_disconnected_policy(policy_process) -> None:
    url, process = await policy_process(COUNTING)
    async with PolicyClient(url) as client:
        await client.reset(TaskConfig("a/b", "a", "b", 1, "t"))
        await client.act(Observation({}), SPACE, 2.0)
        process.kill()
        await process.wait()
        with pytest.raises(PolicyError) as caught:
            await client.act(Observation({}), SPACE, 2.0)
    assert caught.value.code == "disconnected"


async def test_a_policy_that_fails_to_load_ends_the_process(policy_process) -> None:
    with pytest.raises(AssertionError, match="ended with 1"):
        await policy_process("raise ImportError('no such model')")

import json
from uuid import uuid4

import httpx
import pytest

from kinitro.storage import quarantine

FETCH = {"executor_id": "executor-a", "batch_size": 10}


def result(task: dict[str, object], **changes: object) -> dict[str, object]:
    return {
        "task_uuid": task["task_uuid"],
        "lease_token": task["lease_token"],
        "success": False,
        "score": 0.0,
        "total_reward": 1.0,
        "timesteps": 10,
        **changes,
    }


@pytest.fixture
async def tasks(world, http: httpx.AsyncClient) -> list[dict[str, object]]:
    """All tasks of a running cycle, leased to executor-a."""
    await world.plan()
    return (await http.post("/v1/tasks/fetch", json=FETCH)).json()["tasks"]


async def test_a_leased_task_says_everything_an_executor_needs(tasks) -> None:
    assert len(tasks) == 8
    assert set(tasks[0]) == {
        "task_uuid",
        "lease_token",
        "lease_expires_at",
        "cycle_id",
        "miner_uid",
        "miner_hotkey",
        "miner_endpoint",
        "miner_repo",
        "miner_revision",
        "env_id",
        "seed",
        "policy_seed",
        "status",
        "created_at",
    }
    assert tasks[0]["miner_endpoint"] is None
    assert tasks[0]["status"] == "assigned"


async def test_a_quarantined_executor_gets_403_with_the_reason_and_the_way_back(world, http, tasks, database) -> None:
    async with database.begin() as connection:
        cycle_id = tasks[0]["cycle_id"]
        await quarantine(connection, cycle_id, "executor-a", None, "others contradicted it over 10 miners.")
        await quarantine(connection, cycle_id, "executor-b", "hotkey-0", "c and d contradicted it.")
    answer = await http.post("/v1/tasks/fetch", json=FETCH)
    assert answer.status_code == 403
    assert answer.json()["detail"] == (
        "The executor executor-a is quarantined and gets no tasks: others contradicted it over 10 miners. "
        "Find out why; then an operator lifts it with `kinitro executors pardon executor-a`."
    )
    status, metrics = (await http.get("/v1/status")).json(), (await http.get("/metrics")).text
    assert {(entry["executor_id"], entry["hotkey"]) for entry in status["quarantined"]} == {
        ("executor-a", None),
        ("executor-b", "hotkey-0"),
    }
    assert 'kinitro_quarantined_executors{scope="all"} 1.0' in metrics
    assert 'kinitro_quarantined_executors{scope="miner"} 1.0' in metrics


async def test_before_any_cycle_fetch_is_an_empty_list(http: httpx.AsyncClient) -> None:
    assert (await http.post("/v1/tasks/fetch", json=FETCH)).json() == {"tasks": [], "total_pending": 0}


async def test_a_batch_reports_each_result_and_stats_add_up(http, tasks) -> None:
    known, stranger = tasks[0], {"task_uuid": str(uuid4()), "lease_token": str(uuid4())}
    body = {"executor_id": "executor-a", "results": [result(known), result(stranger)]}
    assert (await http.post("/v1/tasks/submit", json=body)).json() == {
        "accepted": 1,
        "rejected": 1,
        "errors": [{"task_uuid": stranger["task_uuid"], "reason": "unknown"}],
    }
    stats = (await http.get("/v1/tasks/stats")).json()
    assert stats == {
        "total_tasks": 8,
        "pending_tasks": 0,
        "assigned_tasks": 7,
        "completed_tasks": 1,
        "failed_tasks": 0,
        "active_executors": ["executor-a"],
        "current_cycle_id": known["cycle_id"],
    }


async def test_a_result_sent_again_is_accepted_and_an_altered_one_is_a_conflict(http, tasks) -> None:
    body = {"executor_id": "executor-a", "results": [result(tasks[0])]}
    for _ in range(2):
        assert (await http.post("/v1/tasks/submit", json=body)).json()["accepted"] == 1
    body["results"] = [result(tasks[0], total_reward=2.0)]
    assert (await http.post("/v1/tasks/submit", json=body)).json()["errors"][0]["reason"] == "conflict"


async def test_heartbeat_and_release_name_what_is_held_and_what_is_lost(http, tasks) -> None:
    mine = {"task_uuid": tasks[0]["task_uuid"], "lease_token": tasks[0]["lease_token"]}
    other = {"task_uuid": tasks[1]["task_uuid"], "lease_token": str(uuid4())}
    body = {"executor_id": "executor-a", "leases": [mine, other]}
    assert (await http.post("/v1/tasks/heartbeat", json=body)).json() == {
        "extended": [mine["task_uuid"]],
        "lost": [other["task_uuid"]],
    }
    assert (await http.post("/v1/tasks/release", json=body)).json() == {
        "released": [mine["task_uuid"]],
        "lost": [other["task_uuid"]],
    }
    assert (await http.get("/v1/tasks/stats")).json()["pending_tasks"] == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"success": True, "score": 1.0, "error": "but it fell"}, "error"),
        ({"success": True, "score": 1.0, "error_kind": "policy"}, "error_kind"),
        ({"success": True, "score": 0.5}, "score"),
        ({"score": 1.0}, "score"),
        ({"score": 2.0}, "score"),
        ({"error": "zero \0 byte"}, "error"),
        ({"error": "x" * 4001}, "error"),
        ({"error_kind": "weather"}, "error_kind"),
        ({"trace_digest": "with space"}, "trace_digest"),
        ({"timesteps": -1}, "timesteps"),
        ({"timesteps": 1.5}, "timesteps"),
        ({"timesteps": 10**30}, "timesteps"),
        ({"policy_seconds": -0.1}, "policy_seconds"),
        ({"lease_token": "not-a-uuid"}, "lease_token"),
        ({"bonus": 1}, "bonus"),
    ],
)
async def test_a_malformed_result_is_422_with_the_field_named_and_nothing_is_taken(http, tasks, changes, field) -> None:
    body = {"executor_id": "executor-a", "results": [result(tasks[0]), result(tasks[1], **changes)]}
    answer = await http.post("/v1/tasks/submit", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "results", 1, field]
    assert (await http.get("/v1/tasks/stats")).json()["completed_tasks"] == 0


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_a_reward_that_is_no_number_is_422_and_named(http, tasks, number: str) -> None:
    text = json.dumps({"executor_id": "a", "results": [result(tasks[0], total_reward="?")]}).replace('"?"', number)
    answer = await http.post("/v1/tasks/submit", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][-1] == "total_reward"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"executor_id": "\xe9", "batch_size": 1}',
        b"[" * 100_000,
        b'{"executor_id": "a", "batch_size": ' + b"9" * 5000 + b"}",
        b'{"executor_id": "\\ud800", "batch_size": 1}',
        b'{"executor_id": "a\\u0000b", "batch_size": 1}',
        b'{"executor_id": "a", "batch_size": 0}',
        b'{"executor_id": "a", "batch_size": 101}',
        b'{"executor_id": "", "batch_size": 1}',
        b'{"executor_id": "a", "batch_size": 1, "env_ids": ["../etc"]}',
        b"null",
    ],
)
async def test_a_body_that_is_not_a_request_is_422_never_500(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/v1/tasks/fetch", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"


async def test_a_body_over_the_limit_is_413(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/v1/tasks/submit", content=b" " * (4 * 1024 * 1024 + 1), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert "4194304 bytes" in answer.json()["detail"]


ROUTES = ["fetch", "submit", "heartbeat", "release"]


@pytest.mark.parametrize("route", ROUTES)
async def test_without_a_key_only_this_machine_may_post_and_everyone_may_read(client_of, route: str) -> None:
    far = client_of(peer="10.0.0.3", base_url="http://10.0.0.1:8000")
    answer = await far.post(f"/v1/tasks/{route}", json={})
    assert answer.status_code == 403
    assert "KINITRO_EXECUTOR_API_KEY" in answer.json()["detail"]
    assert (await far.get("/v1/tasks/stats")).status_code == 200
    # 422: past the gate, and the empty body is then looked at.
    assert (await client_of().post(f"/v1/tasks/{route}", json={})).status_code == 422


@pytest.mark.parametrize("route", ROUTES)
async def test_with_a_key_only_its_holder_may_post_from_anywhere(client_of, route: str) -> None:
    far = client_of(peer="10.0.0.3", base_url="http://api.example", api_key="sesame")
    assert (
        await far.post(f"/v1/tasks/{route}", json={}, headers={"Authorization": "Bearer sesame"})
    ).status_code == 422
    near = client_of(api_key="sesame")
    answer = await near.post(f"/v1/tasks/{route}", json={})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert (await near.get("/v1/status")).status_code == 200


async def test_a_web_page_on_this_machine_may_not_post(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/tasks/fetch", json=FETCH, headers={"Origin": "http://localhost:3000"})
    assert answer.status_code == 403


async def test_an_empty_key_is_no_key(client_of) -> None:
    assert (await client_of(api_key="").post("/v1/tasks/fetch", json=FETCH)).status_code == 200


async def test_no_auth_asks_for_nothing(client_of) -> None:
    client = client_of(no_auth=True, base_url="http://anything")
    assert (await client.post("/v1/tasks/fetch", json=FETCH)).status_code == 200

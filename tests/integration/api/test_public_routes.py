import re

import httpx
import pytest


async def test_before_the_first_cycle_everything_is_empty_or_404_with_advice(http: httpx.AsyncClient) -> None:
    status = (await http.get("/v1/status")).json()
    assert status["current_cycle"] is None
    assert status["total_cycles"] == 0
    assert (await http.get("/v1/miners")).json() == []
    assert (await http.get("/v1/environments")).json() == []
    for path in ("/v1/scores/latest", "/v1/weights/latest"):
        answer = await http.get(path)
        assert answer.status_code == 404
        assert "/v1/status" in answer.json()["detail"]


async def test_health_names_the_version_and_the_database(http: httpx.AsyncClient) -> None:
    answer = await http.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "version": answer.json()["version"], "database": "connected"}


async def test_status_tells_the_open_cycle_from_the_last_completed_one(world, http) -> None:
    first = await world.finished_cycle()
    second = await world.plan()
    status = (await http.get("/v1/status")).json()
    assert status["current_cycle"]["id"] == second
    assert status["current_cycle"]["status"] == "running"
    assert status["current_cycle"]["completed_at"] is None
    assert status["last_completed_cycle"]["id"] == first
    assert status["last_completed_cycle"]["duration_seconds"] >= 0
    assert status["last_completed_cycle"]["n_miners"] == 2
    assert status["last_completed_cycle"]["n_environments"] == 2
    assert (status["total_cycles"], status["total_miners_evaluated"]) == (2, 2)
    assert status["environments"] == ["metaworld/reach-v3", "metaworld/push-v3"]
    assert status["is_evaluating"] is True


async def test_status_names_environments_that_no_live_executor_serves(world, http) -> None:
    await world.plan()
    assert (await http.get("/v1/status")).json()["unserved_environments"] == ["metaworld/reach-v3", "metaworld/push-v3"]
    await http.post("/v1/tasks/fetch", json={"executor_id": "a", "batch_size": 1, "env_ids": ["metaworld/push-v3"]})
    assert (await http.get("/v1/status")).json()["unserved_environments"] == ["metaworld/reach-v3"]
    await http.post("/v1/tasks/fetch", json={"executor_id": "b", "batch_size": 1})
    assert (await http.get("/v1/status")).json()["unserved_environments"] == []


async def test_status_says_why_there_are_no_weights(world, http) -> None:
    await world.fail(await world.plan())
    (reason,) = (await http.get("/v1/status")).json()["reasons"]
    assert "7 % of its tasks got no verdict" in reason


async def test_each_miner_has_a_state_and_a_reason(world, http) -> None:
    await world.finished_cycle()
    miners = (await http.get("/v1/miners")).json()
    assert [(m["uid"], m["state"], m["reason"]) for m in miners] == [
        (0, "evaluated", None),
        (1, "evaluated", None),
        (2, "copy", "copy of uid 0"),
        (3, "rejected", "not JSON"),
    ]
    assert miners[0]["avg_success_rate"] == 1.0
    assert miners[0]["last_evaluated_block"] == 120
    assert miners[0]["environments_evaluated"] == 2
    assert (miners[2]["avg_success_rate"], miners[2]["last_evaluated_block"]) == (None, None)
    assert miners[1].items() <= (await http.get("/v1/miners/hotkey-1")).json().items()


async def test_a_new_revision_is_queued_and_does_not_inherit_the_old_ones_rate(world, http) -> None:
    await world.finished_cycle()
    cycle_id = await world.plan(revision="2")
    miner = (await http.get("/v1/miners/hotkey-0")).json()
    assert (miner["state"], miner["avg_success_rate"]) == ("queued", None)
    assert f"cycle {cycle_id}" in miner["reason"]
    unchanged = (await http.get("/v1/miners/hotkey-1")).json()
    assert (unchanged["state"], unchanged["avg_success_rate"]) == ("evaluated", 0.0)


async def test_an_unknown_miner_is_404_with_the_command_to_look_it_up(world, http) -> None:
    await world.plan()
    answer = await http.get("/v1/miners/nobody")
    assert answer.status_code == 404
    assert "kinitro miner show-commitment" in answer.json()["detail"]


async def test_environments_show_the_average_of_the_last_completed_cycle(world, http) -> None:
    await world.finished_cycle()
    listed = (await http.get("/v1/environments")).json()
    assert listed[0] == {
        "env_id": "metaworld/reach-v3",
        "env_name": "metaworld",
        "task_name": "reach-v3",
        "n_evaluations": 4,
        "avg_success_rate": 0.5,
    }


async def test_scores_come_by_cycle_and_latest(world, http) -> None:
    first = await world.finished_cycle()
    second = await world.finished_cycle()
    latest = (await http.get("/v1/scores/latest")).json()
    assert latest["cycle"]["id"] == second
    assert latest["miner_summary"]["0"] == {"metaworld/reach-v3": 1.0, "metaworld/push-v3": 1.0}
    assert latest["pareto_frontier"] == [0]
    assert {"uid", "hotkey", "env_id", "success_rate", "mean_reward", "episodes_completed", "episodes_failed"} <= set(
        latest["scores"][0]
    )
    assert (await http.get(f"/v1/scores/{first}")).json()["cycle"]["id"] == first


async def test_scores_of_an_open_an_unknown_and_a_failed_cycle_say_why_not(world, http) -> None:
    cycle_id = await world.plan()
    assert (await http.get(f"/v1/scores/{cycle_id}")).status_code == 409
    assert (await http.get(f"/v1/scores/{cycle_id + 1}")).status_code == 404
    await world.fail(cycle_id)
    answer = await http.get(f"/v1/scores/{cycle_id}")
    assert answer.status_code == 404
    assert "7 % of its tasks" in answer.json()["detail"]


async def test_weights_in_force_at_a_block_are_the_latest_not_beyond_it(world, http) -> None:
    await world.finished_cycle()
    await world.finished_cycle()
    assert (await http.get("/v1/weights/129")).status_code == 404
    assert (await http.get("/v1/weights/130")).json()["cycle_id"] == 1
    assert (await http.get("/v1/weights/159")).json()["cycle_id"] == 1
    assert (await http.get("/v1/weights/160")).json()["cycle_id"] == 2
    latest = (await http.get("/v1/weights/latest")).json()
    assert latest["cycle_id"] == 2
    assert latest["weights"] == {"0": 1.0}
    assert latest["weights_u16"] == {"uids": [0], "values": [65535]}
    assert latest["hotkeys"] == {"0": "hotkey-0"}
    assert (latest["netuid"], latest["genesis"], latest["expires_at_block"]) == (7, "0x" + "ab" * 32, 160 + 7200)
    assert latest["metadata"] == {"points": {"0": 6}}


async def test_a_closed_cycles_export_holds_everything_it_was_judged_by(world, http) -> None:
    cycle_id = await world.finished_cycle()
    export = (await http.get(f"/v1/cycles/{cycle_id}/export")).json()
    assert export["format"] == 1
    assert export["salt"] == bytes(range(32)).hex()
    assert export["block_hash"] == "0x" + "11" * 32
    assert export["environments"] == ["metaworld/reach-v3", "metaworld/push-v3"]
    assert [(m["uid"], m["repo"], m["place"]) for m in export["miners"]] == [
        (0, "alice/policy", 1),
        (1, "bob/policy", 2),
        (2, "carol/policy", None),
        (3, "", None),
    ]
    assert len(export["episodes"]) == 8
    assert export["history"] == []
    won = export["episodes"][0]
    assert (won["uid"], won["env_id"], won["index"], won["seed"]) == (0, "metaworld/push-v3", 0, 777000)
    assert (won["success"], won["score"], won["executor_id"], won["policy_seconds"]) == (True, 1.0, "executor-a", 1.5)
    lost = export["episodes"][-1]
    assert (lost["success"], lost["error"], lost["error_kind"]) == (False, "fell asleep", "policy")


async def test_a_failed_cycles_export_shows_tasks_without_verdict(world, http) -> None:
    cycle_id = await world.plan()
    await world.fail(cycle_id)
    export = (await http.get(f"/v1/cycles/{cycle_id}/export")).json()
    assert export["status"] == "failed"
    assert {episode["success"] for episode in export["episodes"]} == {None}


async def test_history_counts_earlier_completed_cycles_of_the_same_submissions_and_versions_only(world, http) -> None:
    first = await world.finished_cycle()
    await world.fail(await world.plan())
    changed = {"metaworld/reach-v3": "1", "metaworld/push-v3": "2"}
    third = await world.finished_cycle(environments=changed, revision="2")
    export = (await http.get(f"/v1/cycles/{third}/export")).json()
    # uid 0 has a new revision, and push-v3 a new version: neither's past counts.
    assert export["history"] == [
        {
            "cycle_id": first,
            "env_id": "metaworld/reach-v3",
            "episodes": 2,
            "evaluated": {"1": "03"},
            "success": {"1": "00"},
        }
    ]


@pytest.mark.parametrize("running", [True, False])
async def test_nothing_public_shows_an_open_cycles_seeds_salt_or_outcomes(world, http, running: bool) -> None:
    await world.finished_cycle(revision="9")
    cycle_id = await world.plan(running=running)
    if running:
        await world.run_everything()
    assert (await http.get(f"/v1/cycles/{cycle_id}/export")).status_code == 409
    assert (await http.get(f"/v1/scores/{cycle_id}")).status_code == 409
    paths = [
        "status",
        "miners",
        "miners/hotkey-0",
        "environments",
        "scores/latest",
        "weights/latest",
        "cycles",
        "tasks/stats",
    ]
    shown = "".join([(await http.get(f"/v1/{path}")).text for path in paths])
    shown += (await http.get("/metrics")).text
    for secret in (bytes(range(32)).hex(), "777000", "888000", "fell asleep"):
        # As a word of its own: a measured time may hold any digits.
        assert not re.search(rf"(?<![\w.]){secret}(?!\w)", shown)
    miner = (await http.get("/v1/miners/hotkey-0")).json()
    assert (miner["state"], miner["avg_success_rate"]) == ("queued", None)


async def test_cycles_are_listed_newest_first(world, http) -> None:
    await world.finished_cycle()
    await world.plan()
    assert [cycle["id"] for cycle in (await http.get("/v1/cycles")).json()] == [2, 1]
    assert [cycle["id"] for cycle in (await http.get("/v1/cycles?limit=1")).json()] == [2]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/scores/0", "cycle_id"),
        ("/v1/scores/99999999999", "cycle_id"),
        ("/v1/scores/newest", "cycle_id"),
        ("/v1/weights/-1", "block"),
        (f"/v1/weights/{2**63}", "block"),
        ("/v1/cycles/abc/export", "cycle_id"),
        ("/v1/cycles?limit=0", "limit"),
        ("/v1/miners/a%00b", "hotkey"),
        ("/v1/tasks/stats?cycle_id=3000000000", "cycle_id"),
    ],
)
async def test_a_parameter_out_of_range_is_422_and_named(http: httpx.AsyncClient, path: str, field: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][-1] == field


async def test_metrics_show_what_executors_say_of_their_cloud_deployments(world, http) -> None:
    await world.plan()
    usage = {
        "policy": {"created": 4, "alive": 2, "seconds": 90.5},
        "environment": {"created": 9, "alive": 1, "seconds": 30},
    }
    fetched = await http.post("/v1/tasks/fetch", json={"executor_id": "cloudy", "batch_size": 1, "usage": usage})
    assert 'kinitro_deployments_created{executor="cloudy",kind="policy"} 4.0' in (await http.get("/metrics")).text
    (task,) = fetched.json()["tasks"]
    leases = [{"task_uuid": task["task_uuid"], "lease_token": task["lease_token"]}]
    usage["policy"] |= {"created": 5, "seconds": 100}
    assert (
        await http.post("/v1/tasks/heartbeat", json={"executor_id": "cloudy", "leases": leases, "usage": usage})
    ).status_code == 200
    await http.post("/v1/tasks/fetch", json={"executor_id": "grounded", "batch_size": 1})
    text = (await http.get("/metrics")).text
    assert 'kinitro_deployments_created{executor="cloudy",kind="policy"} 5.0' in text
    assert 'kinitro_deployments_alive{executor="cloudy",kind="environment"} 1.0' in text
    assert 'kinitro_deployments_alive_seconds{executor="cloudy",kind="policy"} 100.0' in text
    assert "grounded" not in text


@pytest.mark.parametrize(
    "usage", [{"other": {}}, {"policy": {"created": -1, "alive": 0, "seconds": 0}}, {"policy": {}}]
)
async def test_usage_that_makes_no_sense_is_422(usage, http) -> None:
    answer = await http.post("/v1/tasks/fetch", json={"executor_id": "a", "batch_size": 1, "usage": usage})
    assert answer.status_code == 422


async def test_metrics_count_tasks_by_status_and_requests_by_route_template(world, http) -> None:
    cycle_id = await world.plan()
    await http.post("/v1/tasks/fetch", json={"executor_id": "a", "batch_size": 3})
    await http.get("/v1/scores/41")
    await http.get("/v1/scores/42")
    await http.get("/no/such/path")
    text = (await http.get("/metrics")).text
    assert 'kinitro_tasks{status="pending"} 5.0' in text
    assert 'kinitro_tasks{status="assigned"} 3.0' in text
    assert "kinitro_active_executors 1.0" in text
    assert f"kinitro_cycle_id {float(cycle_id)}" in text
    assert 'kinitro_api_requests_total{method="GET",route="/v1/scores/{cycle_id}",status="404"} 2.0' in text
    assert 'route="none",status="404"} 1.0' in text
    assert 'kinitro_api_request_seconds_count{route="/v1/tasks/fetch"} 1.0' in text

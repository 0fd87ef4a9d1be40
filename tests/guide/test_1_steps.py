"""Step 1 to Step 6, "Expected Results" and "Log Messages to Watch For"."""

import re
from datetime import datetime

import pytest

from . import guide
from .guide import ENVIRONMENTS, EPISODES, documents
from .machine import READER, TOKEN, USER

pytestmark = pytest.mark.timeout(900)


def times(shown: str, event: str) -> list[datetime]:
    return [datetime.fromisoformat(stamp) for stamp in re.findall(rf"(\S+Z) \[.*\] {event} ", shown)]


def test_the_images_are_built_under_the_names_that_the_guide_gives(walk) -> None:
    assert "Built kinitro/metaworld:v1." in walk.built[guide.BUILD_METAWORLD]
    assert "Built kinitro/miner-runner:v1." in walk.built[guide.BUILD_MINER]


def test_the_policy_is_deployed_and_committed(walk, machine) -> None:
    assert f"Committed: {USER}/kinitro-test-policy@" in walk.deployed
    assert f"uid {machine.uid}  {machine.hotkey}" in walk.after_commitment


def test_the_scheduler_finds_the_miners_with_commitments(walk) -> None:
    assert walk.scheduler.lines("commitments_loaded")[0].split()[1:3] == ["count=1", "total_miners=5"]


def test_tasks_are_miners_times_environments_times_episodes(walk) -> None:
    (line, *_) = walk.scheduler.lines("tasks_created")
    assert line.split()[1:3] == ["cycle_id=1", f"total_tasks={1 * ENVIRONMENTS * EPISODES}"]


def test_the_executor_fetches_tasks_from_the_api_in_batches_of_four(walk) -> None:
    assert walk.executor.shown.count("/v1/tasks/fetch") > 1


def test_one_deployment_serves_all_tasks_of_a_repo_and_revision(walk) -> None:
    assert len(walk.executor.lines("miner_deployment_created")) == 1
    hits = walk.executor.lines("deployment_cache_hit")
    assert len(hits) >= ENVIRONMENTS * EPISODES - 1
    assert len({hit.partition("part=")[0] for hit in hits}) == 1
    assert len(walk.policies) == 1


def test_deployment_and_evaluation_run_in_containers_of_the_images_that_were_built(walk) -> None:
    assert [one["Config"]["Image"] for one in walk.policies] == ["kinitro/miner-runner:v1"]
    assert {one["Config"]["Image"] for one in walk.environments} == {"kinitro/metaworld:v1"}


def test_every_result_gets_to_the_api(walk) -> None:
    statistics, health, scores = documents(walk.monitored["after"])
    assert statistics["failed_tasks"] == 0
    assert health["status"] == "ok"
    # The statistics may be of the next cycle already.
    assert scores["cycle"]["id"] == 1
    assert sum(one["episodes_completed"] for one in scores["scores"]) == ENVIRONMENTS * EPISODES


def test_pareto_scores_are_there_when_the_cycle_is_complete(walk, machine) -> None:
    _, _, before = documents(walk.monitored["during"])
    assert "scores" not in before
    *_, scores = documents(walk.monitored["after"])
    assert scores["cycle"]["status"] == "completed"
    assert scores["pareto_frontier"] == [machine.uid]
    assert len(scores["miner_summary"][str(machine.uid)]) == ENVIRONMENTS


def test_the_template_solves_what_it_says_it_solves(walk, machine) -> None:
    *_, scores = documents(walk.monitored["after"])
    assert scores["miner_summary"][str(machine.uid)]["metaworld/drawer-close-v3"] == 1.0


def test_cycles_start_an_eval_interval_apart(walk) -> None:
    first, second = times(walk.scheduler.shown, "cycle_planned")[:2]
    assert (second - first).total_seconds() > 59
    assert "--eval-interval 60" in guide.SCHEDULER


def test_the_executor_asks_the_hub_with_the_token_it_was_given(walk, machine) -> None:
    asked = [header for _, path, header in machine.hub.seen if path.endswith("/policy.py")]
    assert asked
    assert set(asked) == {f"Bearer {TOKEN}"}


def test_ctrl_c_ends_each_service_in_order(walk) -> None:
    assert walk.ended == {"executor": 0, "scheduler": 0, "api": 0}


def test_no_secret_is_shown(walk, machine) -> None:
    for terminal in machine.terminals:
        for secret in (TOKEN, READER, "mypassword@"):
            assert secret not in terminal.shown


@pytest.mark.parametrize("line", guide.command_lines(guide.code("Log Messages to Watch For")))
def test_a_log_line_to_watch_for_reads_as_the_guide_shows_it(walk, line) -> None:
    assert guide.shows(f"{walk.scheduler.shown}{walk.executor.shown}", line)

"""MetaWorld and ProcTHOR in one cycle, in process mode, against the stand-in: it completes, and pays nobody."""

import sys

import pytest

from kinitro.environments.procthor.spec import specs
from kinitro.environments.protocol import EvaluateExtra, EvaluateReply
from kinitro.errors import EnvironmentFault
from kinitro.executor.episodes import check_version
from kinitro.scheduler.publishing import unscored_reason
from kinitro.storage import open_database
from kinitro.storage import tables as t
from kinitro.testing.procthor import stand_in_specs

from .cycle import check, run_cycle


@pytest.mark.timeout(300)
async def test_a_cycle_with_both_families_completes_and_is_marked_unscored(tmp_path, monkeypatch):
    monkeypatch.setenv("KINITRO_HOME", str(tmp_path))
    export, status = await run_cycle(tmp_path, "process", sys.executable)
    check(export, status)
    async with open_database(None) as database, database.begin() as connection:
        assert (await connection.execute(t.weights.select())).all() == []


def test_a_real_executor_takes_no_result_of_a_stand_in():
    extra = EvaluateExtra(
        seed=1, env_id="procthor/v0", timesteps=1, total_reward=0.0, mean_action_time=0.0, max_action_time=0.0,
        policy_seconds=0.0, environment_version=stand_in_specs()[0].version,
    )  # fmt: skip
    reply = EvaluateReply(task_name="v0", score=1.0, success=True, time_taken=1.0, extra=extra)
    with pytest.raises(EnvironmentFault, match="standin") as caught:
        check_version(reply, specs()[0].version)
    assert caught.value.code == "environment_version"


def test_only_a_cycle_without_a_stand_in_pays():
    real = {spec.env_id: spec.version for spec in specs()}
    assert unscored_reason(real) is None
    marked = {spec.env_id: spec.version for spec in stand_in_specs()}
    assert "procthor/v0" in unscored_reason({"metaworld/reach-v3": "1"} | marked)

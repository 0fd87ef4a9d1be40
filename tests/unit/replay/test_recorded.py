"""Which episodes can be run again, and which is worth seeing."""

from hashlib import sha256
from uuid import UUID, uuid4

import pytest

from kinitro.errors import ConfigurationError
from kinitro.replay import failure_worth_seeing, recorded, select
from kinitro.replay.compare import contradictions
from kinitro.replay.recorded import episodes_of
from kinitro.schemas import CycleExport, EpisodeOut, ExportEpisode, ExportMiner
from kinitro.testing.records import made_up_record, made_up_steps

CONDITIONS = made_up_record().conditions
REACH, PUSH = "metaworld/reach-v3", "metaworld/push-v3"


def episode(env_id: str, index: int, success: bool | None, reward: float = 0.0, **changes) -> ExportEpisode:
    made = {
        "uid": 1, "env_id": env_id, "index": index, "seed": 1, "policy_seed": 2, "task_uuid": uuid4(),
        "success": success, "score": float(bool(success)), "total_reward": reward, "timesteps": 9,
        "executor_id": "one", "conditions": "c",
    }  # fmt: skip
    return ExportEpisode.model_validate(made | changes)


def export(*episodes: ExportEpisode) -> CycleExport:
    miner = ExportMiner(
        uid=1, hotkey="5H", repo="a/b", revision="0" * 40, committed_block=1, place=1, state="evaluated"
    )
    return CycleExport(
        format=1, cycle_id=4, status="completed", block_number=1, target_block=4, block_hash=None, salt="",
        salt_sha256="", netuid=1, genesis="0x0", episodes_per_env=3, rule={}, environments=[PUSH, REACH],
        miners=[miner], episodes=list(episodes), history=[], conditions={"c": CONDITIONS},
    )  # fmt: skip


def test_an_environment_that_does_not_exist_is_told_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean metaworld/push-v3"):
        select(export(), 1, "push-v3", 0)
    with pytest.raises(ConfigurationError, match=r"has no episode 0 of uid 1 in metaworld/door-open-v3.*environments"):
        select(export(), 1, "metaworld/door-open-v3", 0)


def test_the_failure_worth_seeing_is_a_near_miss_where_the_miner_is_good() -> None:
    good = [episode(PUSH, 0, success=True), episode(PUSH, 1, success=False, reward=2.0)]
    best = episode(PUSH, 2, success=False, reward=5.0)
    elsewhere = episode(REACH, 0, success=False, reward=99.0)
    assert failure_worth_seeing(export(*good, best, elsewhere), 1) is best


@pytest.mark.parametrize(
    "other",
    [
        episode(PUSH, 0, success=True),
        episode(PUSH, 0, success=None),
        episode(PUSH, 0, success=False, conditions=None),
        episode(PUSH, 0, success=False, timesteps=0),
    ],
    ids=["a success", "no verdict", "never run", "no step"],
)
def test_without_a_failure_that_could_be_shown_it_says_so(other) -> None:
    with pytest.raises(ConfigurationError, match="no failed episode in cycle 4"):
        failure_worth_seeing(export(other), 1)


def test_an_episode_is_found_by_miner_environment_and_index() -> None:
    wanted = episode(REACH, 1, success=False)
    assert select(export(episode(REACH, 0, success=True), wanted), 1, REACH, 1) is wanted
    with pytest.raises(ConfigurationError, match="no episode 7 of uid 1") as caught:
        select(export(wanted), 1, REACH, 7)
    assert "episodes 0 to 2" in str(caught.value.advice)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"success": None, "error": "disk full"}, "no verdict (disk full)"),
        ({"executor_id": None, "success": False, "error": "too_slow: spent"}, "it was not run (too_slow: spent)"),
        ({"conditions": None, "success": False, "error": "died at start"}, "no simulator ran it (died at start)"),
        ({"policy_seed": None}, "which policy seed"),
    ],
    ids=["no verdict", "budget", "no record", "old export"],
)
def test_what_did_not_run_is_refused_with_its_reason(changes, words) -> None:
    made = episode(REACH, 0, **({"success": True} | changes))
    (out,) = episodes_of(export(made))
    with pytest.raises(ConfigurationError) as caught:
        recorded(out)
    assert words in caught.value.message


def test_steps_that_are_damaged_or_not_those_of_the_record_are_named() -> None:
    record = made_up_record(made_up_steps()).model_copy(update={"steps": None, "steps_url": "file:///x"})
    out = EpisodeOut(
        cycle_id=4, netuid=1, hotkey="5H", repo="a/b", revision="0" * 40, episode=episode(REACH, 0, success=True),
        record=record,
    )  # fmt: skip
    assert recorded(out, made_up_steps().encode()).run.steps is not None
    assert recorded(out).run.steps is None
    others = recorded(out, made_up_steps(6).encode()).run
    assert contradictions(others) == ["the SHA-256 of its steps is not the one that it names"]
    junk = record.model_copy(update={"steps": "AAAA", "steps_sha256": sha256(bytes(3)).hexdigest()})
    (damage,) = contradictions(recorded(out.model_copy(update={"record": junk})).run)
    assert "its steps can't be read" in damage


def test_an_exported_episode_has_what_it_ran_under() -> None:
    (out,) = episodes_of(export(episode(REACH, 0, success=True)))
    assert out.record is not None
    assert out.record.conditions == CONDITIONS
    assert isinstance(recorded(out).task_uuid, UUID)

"""Who is evaluated, who is a copy, who is rejected, and what episodes follow."""

from dataclasses import replace

import pytest

from kinitro.chain import Neuron
from kinitro.scheduler import planning
from kinitro.storage import MinerEntry, Sighting, Submission
from kinitro.types import MinerState, PolicyRef

REVISION = "a" * 40
SALT = bytes(range(32))
BLOCK_HASH = "0x" + "11" * 32


def sighting(uid: int, repo: str = "", revision: str = REVISION, block: int = 10) -> Sighting:
    return Sighting(uid, f"hotkey-{uid}", PolicyRef(repo or f"user{uid}/policy", revision), block)


def remembered(*sightings: Sighting, first_seen: dict[int, int] | None = None) -> dict[str, Submission]:
    blocks = first_seen or {}
    return {
        seen.hotkey: Submission(seen.uid + 100, seen.hotkey, seen.ref, blocks.get(seen.uid, seen.block), seen.uid, None)
        for seen in sightings
    }


def test_a_neuron_without_a_commitment_is_no_miner():
    found = planning.discover([Neuron(0, "validator", None, None)])
    assert (found.readable, found.rejected) == ((), ())


def test_an_unreadable_commitment_is_rejected_with_a_reason_its_owner_can_read():
    found = planning.discover([Neuron(3, "hotkey-3", "hello", 12)])
    assert found.readable == ()
    (entry,) = found.rejected
    assert entry.state is MinerState.REJECTED
    assert entry.uid == 3
    assert entry.reason


def test_the_line_is_ordered_by_first_sight_and_then_by_uid():
    seen = [sighting(5, block=9), sighting(2, block=20), sighting(1, block=20)]
    line = planning.line_up(seen, remembered(*seen), {})
    assert [miner.uid for miner in line] == [5, 1, 2]


def test_recommitting_the_same_policy_keeps_its_place_in_line():
    recommitted, other = sighting(1, block=500), sighting(2, block=50)
    line = planning.line_up([recommitted, other], remembered(recommitted, other, first_seen={1: 10}), {})
    assert [miner.uid for miner in line] == [1, 2]


def test_the_same_repo_and_revision_committed_later_is_a_copy_whatever_its_letter_case():
    first, second = sighting(1, "Owner/Policy", block=10), sighting(2, "owner/policy", block=11)
    owner, copy = planning.line_up([second, first], remembered(first, second), {})
    assert (owner.uid, owner.state) == (1, MinerState.EVALUATED)
    assert (copy.uid, copy.state, copy.reason) == (2, MinerState.COPY, "copy of uid 1")


def test_equal_snapshots_under_another_name_are_a_copy():
    first, second = sighting(1, block=10), sighting(2, revision="b" * 40, block=11)
    digests = {("user1/policy", REVISION): "same", ("user2/policy", "b" * 40): "same"}
    _, copy = planning.line_up([first, second], remembered(first, second), digests)
    assert copy.state is MinerState.COPY


def test_when_the_owner_is_gone_the_next_in_line_takes_over():
    second, third = sighting(2, "owner/policy", block=11), sighting(3, "owner/policy", block=12)
    owner, copy = planning.line_up([second, third], remembered(second, third), {})
    assert (owner.uid, owner.state) == (2, MinerState.EVALUATED)
    assert copy.reason == "copy of uid 2"


def test_copies_get_no_place():
    first, second = sighting(1, "owner/policy", block=10), sighting(2, "owner/policy", block=11)
    line = planning.line_up([first, second], remembered(first, second), {})
    placed = planning.with_places(line, {101: 1})
    assert [miner.place for miner in placed] == [1, None]


def test_who_waits_for_the_hub_keeps_its_turn_in_line_and_the_rejected_have_none():
    first, second, third = (sighting(uid, block=10 * uid) for uid in (1, 2, 3))
    submissions = remembered(first, second, third)
    waiting = MinerEntry(1, first.hotkey, first.ref, 10, None, None, MinerState.QUEUED, "the hub is down")
    rejected = MinerEntry(3, third.hotkey, third.ref, 30, None, None, MinerState.REJECTED, "another's")
    line = planning.line_up([second], submissions, {})
    assert planning.place_seekers(line, [rejected, waiting], submissions) == [101, 102]


def test_every_miner_meets_the_same_seeds_and_its_own_policy_seeds():
    seen = [sighting(1), sighting(2)]
    line = planning.line_up(seen, remembered(*seen), {})
    tasks = list(planning.plan_tasks(line, ["metaworld/reach-v3", "metaworld/push-v3"], 3, SALT, BLOCK_HASH))
    assert len(tasks) == 2 * 2 * 3
    seeds = {uid: [task.seed for task in tasks if task.uid == uid] for uid in (1, 2)}
    assert seeds[1] == seeds[2]
    assert len(set(seeds[1])) == 6
    policy_seeds = {uid: [task.policy_seed for task in tasks if task.uid == uid] for uid in (1, 2)}
    assert set(policy_seeds[1]).isdisjoint(policy_seeds[2])
    assert tasks[0].seed == 289255596  # contracts section 7
    assert [task.position for task in tasks] == list(range(12))


def test_a_share_of_the_episodes_is_drawn_to_be_checked_and_none_without_a_rate():
    line = planning.line_up([sighting(1)], remembered(sighting(1)), {})
    asked = (line, ["metaworld/reach-v3"], 5000, SALT, BLOCK_HASH)
    assert not any(task.is_drawn for task in planning.plan_tasks(*asked))
    drawn = [task.episode_index for task in planning.plan_tasks(*asked, audit_rate=0.02) if task.is_drawn]
    assert 50 < len(drawn) < 150
    assert drawn == [task.episode_index for task in planning.plan_tasks(*asked, audit_rate=0.02) if task.is_drawn]


@pytest.mark.parametrize("state", [MinerState.COPY, MinerState.REJECTED])
def test_only_evaluated_miners_get_tasks(state):
    (miner,) = planning.line_up([sighting(1)], remembered(sighting(1)), {})
    assert list(planning.plan_tasks([replace(miner, state=state)], ["metaworld/reach-v3"], 3, SALT, BLOCK_HASH)) == []

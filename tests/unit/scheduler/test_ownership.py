"""Who takes part with a policy: the hotkey its snapshot names, whatever the hub does meanwhile."""

import asyncio

from kinitro.errors import InfrastructureError, PolicyError
from kinitro.scheduler.ownership import Inspection, admit, inspect, unseen
from kinitro.storage import Sighting
from kinitro.types import MinerState, PolicyRef

REVISION = "a" * 40
PRIVATE = PolicyError("The repo is private.", code="snapshot_private")
DOWN = InfrastructureError("The hub is down.", code="hub_unreachable")


def sighting(uid: int, repo: str) -> Sighting:
    return Sighting(uid, f"hotkey-{uid}", PolicyRef(repo, REVISION), 10)


class Hub:
    def __init__(self, answers: dict[str, str | Exception | None], pause_s: float = 0.0) -> None:
        self._answers = answers
        self._pause_s = pause_s

    async def read_owner(self, ref: PolicyRef) -> str | None:
        await asyncio.sleep(self._pause_s)
        answer = self._answers[ref.repo]
        if isinstance(answer, Exception):
            raise answer
        return answer


def states(admission) -> dict[int, MinerState]:
    return {miner.uid: miner.state for miner in admission.turned_away}


def test_only_the_named_hotkey_is_admitted_whatever_the_repos_letter_case() -> None:
    seen = [sighting(1, "User/Policy"), sighting(2, "user/policy")]
    admission = admit(seen, {("user/policy", REVISION): "hotkey-2"}, Inspection())
    assert [each.uid for each in admission.admitted] == [2]
    assert states(admission) == {1: MinerState.REJECTED}


def test_a_revision_that_names_nobody_is_rejected_with_what_to_do() -> None:
    admission = admit([sighting(1, "a/b")], {("a/b", REVISION): None}, Inspection())
    assert "kinitro miner deploy" in admission.turned_away[0].reason


def test_each_revision_is_asked_for_once_and_known_ones_never() -> None:
    seen = [sighting(1, "a/one"), sighting(2, "A/one"), sighting(3, "b/two")]
    (ref,) = unseen(seen, {("b/two", REVISION): None})
    assert ref.repo.lower() == "a/one"


async def test_the_policys_fault_rejects_and_the_hubs_only_delays() -> None:
    seen = [sighting(1, "a/mine"), sighting(2, "b/private"), sighting(3, "c/down")]
    hub = Hub({"a/mine": "hotkey-1", "b/private": PRIVATE, "c/down": DOWN})
    found = await inspect(hub, [each.ref for each in seen])
    admission = admit(seen, {}, found)
    assert [each.uid for each in admission.admitted] == [1]
    assert states(admission) == {2: MinerState.REJECTED, 3: MinerState.QUEUED}
    assert found.owners == {seen[0].ref: "hotkey-1"}
    assert "The hub is down." in admission.turned_away[1].reason


async def test_a_slow_hub_holds_up_only_those_it_does_not_answer_for() -> None:
    seen = [sighting(uid, f"user/p{uid}") for uid in range(20)]
    hub = Hub({each.ref.repo: each.hotkey for each in seen}, pause_s=0.1)
    admission = admit(seen, {}, await inspect(hub, [each.ref for each in seen], within_s=0.15))
    assert 0 < len(admission.admitted) < 20
    assert set(states(admission).values()) == {MinerState.QUEUED}


async def test_with_nothing_new_the_hub_is_not_asked() -> None:
    assert await inspect(Hub({}), []) == Inspection()

"""What a validator does and says: with honest backends, absent ones, and liars. On the dev ledger."""

import asyncio
from typing import Any

import pytest

from kinitro.chain import dev_signer
from kinitro.errors import ApiUnreachable, ConfigurationError, NotRegistered
from kinitro.schemas import WeightsU16
from kinitro.validator import NoWeightsYet, WeightsRefused, serve, set_once
from kinitro.validator.journal import Attempt, Fate
from kinitro.validator.validator import LAPSE_BLOCKS, Deed

NETUID = 7
DRAWER, REACH = "metaworld/drawer-close-v3", "metaworld/reach-v3"


@pytest.fixture
async def published(backend, village):
    """Uid `first` has the crown and a badge, uid `second` the other badge: 5/6 and 1/6."""
    return await backend.complete_cycle(village.ledger, NETUID, {village.first: (DRAWER,), village.second: (REACH,)})


def both(village) -> dict[int, int]:
    return {village.first: 65535, village.second: 13107}


async def test_published_weights_are_verified_set_and_recorded(backend, village, published):
    standing = await set_once(village.settings(backend), village.validator)
    assert standing.deed is Deed.SET
    assert await village.weights() == both(village)
    sending, done = village.attempts()
    assert (sending.fate, done.fate) == (Fate.SENDING, Fate.SET)
    assert (done.cycle_id, done.block) == (published, await village.last_update())
    assert len(bytes.fromhex(done.export_sha256)) == 32


async def test_weights_that_are_set_and_fresh_are_left_alone(backend, village, published):
    await set_once(village.settings(backend), village.validator)
    before = await village.last_update()
    assert (await set_once(village.settings(backend), village.validator)).deed is Deed.FRESH
    assert await village.last_update() == before


async def test_unchanged_weights_are_set_again_before_they_go_stale(backend, village, published):
    await set_once(village.settings(backend), village.validator)
    before = await village.last_update()
    await asyncio.sleep(0.2)
    assert (await set_once(village.settings(backend, refresh_blocks=1), village.validator)).deed is Deed.SET
    assert await village.last_update() > before


async def test_a_new_cycles_weights_replace_the_old_ones_at_once(backend, village, published):
    await set_once(village.settings(backend), village.validator)
    await backend.complete_cycle(village.ledger, NETUID, {village.second: (REACH,)})
    assert (await set_once(village.settings(backend), village.validator)).deed is Deed.SET
    assert await village.weights() == {village.second: 65535}


async def test_weights_that_somebody_else_has_overwritten_are_set_again(backend, village, published):
    await set_once(village.settings(backend), village.validator)
    await village.ledger.set_weights(NETUID, {village.uid: 1.0}, village.validator)
    assert (await set_once(village.settings(backend), village.validator)).deed is Deed.SET
    assert await village.weights() == both(village)


async def test_no_weights_yet_is_said_with_where_to_look(backend, village):
    with pytest.raises(
        NoWeightsYet, match=r"has published no weights yet. http://[\d.:]+/v1/status says what it waits"
    ):
        await set_once(village.settings(backend), village.validator)


async def test_an_api_that_is_down_is_said_with_the_flag_to_check(backend, village):
    backend.url = "http://127.0.0.1:9"
    with pytest.raises(ApiUnreachable, match=r"http://127.0.0.1:9 can't be reached.*address \(--backend-url or"):
        await set_once(village.settings(backend), village.validator)


def swap(village) -> Any:
    """Weights that contradict nothing but the export."""

    def lie(document: dict[str, Any]) -> None:
        document["weights"] = {str(village.first): 0.5, str(village.second): 0.5}
        document["weights_u16"] = {"uids": [village.first, village.second], "values": [65535, 65535]}

    return lie


async def test_weights_that_do_not_follow_from_the_export_are_refused_with_what_differs(backend, village, published):
    backend.lies["/weights/latest"] = swap(village)
    with pytest.raises(WeightsRefused) as refusal:
        await set_once(village.settings(backend), village.validator)
    assert f"Cycle {published}'s weights don't follow from its export" in str(refusal.value)
    assert f"uid {village.first} is published with 0.5, the export gives 0.833333" in str(refusal.value)
    assert f"kinitro export {published}" in str(refusal.value)
    assert await village.weights() is None


async def test_trust_without_recomputing_is_a_flag(backend, village, published):
    backend.lies["/weights/latest"] = swap(village)
    await set_once(village.settings(backend, recompute=False), village.validator)
    assert await village.weights() == {village.first: 65535, village.second: 65535}
    assert village.attempts()[-1].export_sha256 is None


@pytest.mark.parametrize(
    "tell",
    [
        lambda result, number: result.model_copy(update={"image_digest": f"sha256:{number % 2}"}),
        lambda result, number: result.model_copy(update={"image_digest": f"sha256:{number == 3}"}),
        lambda result, number: result.model_copy(update={"tree_digest": "false"}) if number == 3 else result,
        lambda result, number: result.model_copy(update={"tree_digest": "tree-1"}),
    ],
    ids=["two honest builds", "one false image", "one false set of files", "the same files of everybody"],
)
async def test_no_digest_that_an_executor_reports_keeps_weights_from_being_set(backend, village, tell) -> None:
    backend.tell = tell
    await backend.complete_cycle(village.ledger, NETUID, {village.first: (DRAWER,), village.second: (REACH,)})
    await set_once(village.settings(backend), village.validator)
    assert await village.weights() is not None


def changed(path: tuple[Any, ...], value: object) -> Any:
    def lie(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return lie


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("episodes", 0, "seed"), 5, "rest on an export that does not hold: seeds: episode 0"),
        (("salt",), "00" * 32, "rest on an export that does not hold: salt: its sha256 is not"),
        (("episodes", 0, "index"), 3, "structure: .*an episode appears twice"),
        (("cycle_id",), 99, "come with the export of something else: cycle 99 instead of"),
        (("status",), "failed", "come with the export of something else: status failed instead of completed"),
        (("target_block",), 10**9, "target block 1000000000, not before the weights' own"),
        (
            ("miners", 0, "hotkey"),
            "5Thief",
            r"don't follow from its export: uid \d is published as 5\w+, .* says 5Thief",
        ),
    ],
)
async def test_a_tampered_export_is_refused(backend, village, published, path, value, said):
    if path[-1] == "hotkey":
        # The seeds a policy is told follow from its hotkey too: leave them out as old exports do.
        backend.lies["/export"] = lambda document: (
            changed(path, value)(document),
            [episode.pop("policy_seed") for episode in document["episodes"]],
        )
    else:
        backend.lies["/export"] = changed(path, value)
    with pytest.raises(WeightsRefused, match=said):
        await set_once(village.settings(backend), village.validator)
    assert await village.weights() is None


async def test_seeds_from_a_block_the_chain_does_not_have_are_refused(backend, village, published):
    from kinitro.scoring import episode_seed

    chosen = "0x" + "77" * 32

    def lie(document: dict[str, Any]) -> None:
        document["block_hash"] = chosen
        for episode in document["episodes"]:
            salt = bytes.fromhex(document["salt"])
            episode["seed"] = episode_seed(salt, chosen, episode["env_id"], episode["index"])

    backend.lies["/export"] = lie
    with pytest.raises(WeightsRefused, match=f"seeds that are not the chain's.*the export says {chosen}"):
        await set_once(village.settings(backend), village.validator)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("weights", "1"), 0.5, "are malformed: they sum to"),
        (("weights", "1"), float("nan"), "not between 0 and 1"),
        (("weights", "70000"), 0.0, "a uid that can't exist"),
        (("weights_u16", "values"), [65535, 65535], "weights_u16 says something else: uid 2 has 65535"),
        (("weights_u16", "values"), [65535], "its uids and values don't pair"),
        (("expires_at_block",), 1, "weights expired at block 1; the chain is at"),
        (("block_number",), 10**9, "are of block 1000000000, but the chain's latest finalized block is"),
    ],
)
async def test_malformed_expired_and_future_weights_are_refused_even_on_trust(
    backend, village, published, path, value, said
):
    backend.lies["/weights/latest"] = changed(path, value)
    with pytest.raises(WeightsRefused, match=said):
        await set_once(village.settings(backend, recompute=False), village.validator)
    assert await village.weights() is None


async def test_weights_of_another_netuid_end_the_validator_with_the_flag_to_change(backend, village, published):
    await village.ledger.register(8, village.validator.ss58_address)
    with pytest.raises(
        ConfigurationError, match=r"weights of netuid 7; this validator sets those of 8. Use --netuid 7"
    ):
        await asyncio.wait_for(serve(village.settings(backend, netuid=8), village.validator), 20)


async def test_weights_of_another_chain_end_the_validator(backend, village, published):
    backend.lies["/weights/latest"] = changed(("genesis",), "0x" + "00" * 32)
    with pytest.raises(ConfigurationError, match=r"for the chain with genesis 0x00.*Use the --network"):
        await asyncio.wait_for(serve(village.settings(backend), village.validator), 20)


async def test_an_unregistered_hotkey_ends_the_validator(backend, village, published):
    with pytest.raises(NotRegistered, match=r"is not registered on netuid 7. Check --wallet-name, --hotkey-name"):
        await asyncio.wait_for(serve(village.settings(backend), dev_signer("village", "stranger")), 20)


async def test_a_uid_that_changed_hands_loses_its_share_to_the_others(backend, village, published):
    await village.ledger.register(NETUID, dev_signer("village", "newcomer").ss58_address, uid=village.first)
    await set_once(village.settings(backend), village.validator)
    assert await village.weights() == {village.second: 65535}


async def test_a_uid_that_changed_hands_loses_its_share_to_the_burn_uid(backend, village):
    wins = {village.first: (DRAWER,), village.second: (REACH,)}
    await backend.complete_cycle(village.ledger, NETUID, wins, burn_uid=village.uid)
    await village.ledger.register(NETUID, dev_signer("village", "newcomer").ss58_address, uid=village.first)
    for recompute in (True, False):
        await set_once(village.settings(backend, recompute=recompute, refresh_blocks=1), village.validator)
        assert await village.weights() == {village.uid: 65535, village.second: 13107}


async def test_a_uid_that_changes_hands_after_setting_makes_the_validator_set_again(backend, village, published):
    await set_once(village.settings(backend), village.validator)
    await village.ledger.register(NETUID, dev_signer("village", "newcomer").ss58_address, uid=village.second)
    assert (await set_once(village.settings(backend), village.validator)).deed is Deed.SET
    assert await village.weights() == {village.first: 65535}


async def test_when_every_share_has_changed_hands_nothing_is_set(backend, village, published):
    for uid in (village.first, village.second):
        await village.ledger.register(NETUID, dev_signer("village", f"newcomer-{uid}").ss58_address, uid=uid)
    with pytest.raises(WeightsRefused, match="Nothing is left of cycle"):
        await set_once(village.settings(backend), village.validator)


def attempt(village, genesis: str, block: int, **changes: object) -> Attempt:
    weights = WeightsU16(uids=list(both(village)), values=list(both(village).values()))
    values = {"fate": Fate.SENDING, "genesis": genesis, "cycle_id": 1, "weights": weights, "block": block}
    return Attempt(**(values | changes))


async def test_a_write_that_landed_as_the_validator_died_is_not_repeated(backend, village, published):
    block = await village.ledger.finalized_block()
    village.record(attempt(village, await village.ledger.genesis(), block))
    await village.ledger.set_weights(NETUID, {village.first: 5 / 6, village.second: 1 / 6}, village.validator)
    landed = await village.last_update()
    assert (await set_once(village.settings(backend), village.validator)).deed is Deed.FRESH
    assert await village.last_update() == landed
    assert village.attempts()[-1].fate is Fate.SET


async def test_a_write_that_was_lost_is_looked_up_until_it_has_lapsed_and_then_sent_again(backend, village, published):
    block = await village.ledger.finalized_block()
    village.record(attempt(village, await village.ledger.genesis(), block))
    assert (await set_once(village.settings(backend), village.validator)).deed is Deed.SET
    assert await village.last_update() >= block + LAPSE_BLOCKS
    assert [each.fate for each in village.attempts()] == [Fate.SENDING, Fate.FAILED, Fate.SENDING, Fate.SET]


async def test_records_of_another_chain_count_for_nothing(backend, village, published):
    village.record(attempt(village, "0x" + "00" * 32, 1, fate=Fate.SET))
    assert (await set_once(village.settings(backend), village.validator)).deed is Deed.SET


async def test_a_second_validator_with_the_same_hotkey_is_refused(backend, village, published):
    running = asyncio.create_task(serve(village.settings(backend), village.validator))
    await until_set(village, after=None)
    with pytest.raises(ConfigurationError, match="Another `kinitro validate` sets the weights of"):
        await set_once(village.settings(backend), village.validator)
    await ended(running)


async def until_set(village, *, after: int | None) -> int:
    async with asyncio.timeout(20):
        while True:
            last = await village.last_update()
            if last is not None and last > (after or 0):
                return last
            await asyncio.sleep(0.05)


async def ended(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_verified_weights_are_kept_alive_while_the_backend_says_nothing_usable(
    backend, village, published, capsys
):
    running = asyncio.create_task(serve(village.settings(backend, refresh_blocks=5), village.validator))
    first = await until_set(village, after=None)
    backend.lies["/weights/latest"] = lambda document: document.clear()
    again = await until_set(village, after=first + 10)
    assert not running.done()
    assert await village.weights() == both(village)
    assert again > first
    await ended(running)
    assert "not a Kinitro API of this version" in capsys.readouterr().out


async def test_the_service_outlives_lies_and_takes_the_next_honest_cycle(backend, village, published, capsys):
    backend.lies["/weights/latest"] = swap(village)
    running = asyncio.create_task(serve(village.settings(backend), village.validator))
    await asyncio.sleep(1)
    assert await village.weights() is None
    backend.lies.clear()
    said = ""
    async with asyncio.timeout(20):
        while "validator_recovered" not in said:
            said += capsys.readouterr().out
            await asyncio.sleep(0.05)
    assert await village.weights() == both(village)
    assert said.count("weights_refused") == 1
    await ended(running)

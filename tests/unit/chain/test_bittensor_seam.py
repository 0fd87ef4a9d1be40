"""The Bittensor adapter over a substrate that is all in memory: what each answer of the SDK becomes."""

import asyncio
from collections.abc import Callable

import pytest

from kinitro.chain import Neuron
from kinitro.errors import (
    AmbiguousWrite,
    ChainError,
    ChainRejected,
    ChainUnreachable,
    NotRegistered,
    RateLimited,
)

bt = pytest.importorskip("bittensor", reason="needs the `chain` extra")

from bittensor.sp_core import Keypair  # noqa: E402 - only where there is an SDK

from kinitro.chain import bittensor as adapter  # noqa: E402

URL = "ws://node.example:9944"
NETUID = 5
ALICE, BOB = (Keypair.create_from_uri(f"//{name}") for name in ("Alice", "Bob"))


class Substrate:
    """What the adapter needs of a chain. `refuse` answers each write, `fail` each read."""

    token_symbols: dict[int, str] = {}  # noqa: RUF012 - as the SDK's own

    def __init__(self) -> None:
        self.head = 100
        self.refuse: Exception | None = None
        self.fail: Exception | None = None
        self.sent: list[object] = []
        self.connections = 0
        self.maps: dict[str, list[tuple[object, object]]] = {
            "Keys": [(1, BOB.ss58_address), (0, ALICE.ss58_address)],
            "Uids": [(ALICE.ss58_address, 0), (BOB.ss58_address, 1)],
        }

    async def connect(self) -> None:
        self.connections += 1

    async def close(self) -> None:
        pass

    async def finalized_block_number(self) -> int:
        if self.fail:
            raise self.fail
        return self.head

    async def block_number(self) -> int:
        return self.head

    async def block_hash(self, block: int | None = None) -> str:
        return f"0x{block or 0:064x}"

    async def block_time(self) -> float:
        return 12.0

    async def query(self, _module: str, item: str, params: list | None = None, _hash: str | None = None, **_: object):
        answers = {
            "NetworksAdded": (params or [0])[0] == NETUID,
            "Uids": {ALICE.ss58_address: 0, BOB.ss58_address: 1}.get((params or [0, ""])[-1]),
            "LastUpdate": [90, 95],
        }
        return answers.get(item)

    async def query_map(self, _module: str, item: str, *_: object, **__: object) -> list[tuple[object, object]]:
        return self.maps.get(item, [])

    async def compose(self, call: object) -> object:
        return call

    async def submit(self, call: object, _keypair: object, **_: object):
        self.sent.append(call)
        if self.refuse is None:
            return bt.ExtrinsicResult(success=True, extrinsic_id="101-0002", block_hash="0x01")
        if isinstance(self.refuse, bt.ChainError) and self.refuse.name:
            return bt.ExtrinsicResult(success=False, message=str(self.refuse), error=self.refuse)
        raise self.refuse


@pytest.fixture
def substrate(monkeypatch: pytest.MonkeyPatch) -> Substrate:
    made = Substrate()
    monkeypatch.setattr(adapter, "_rpc", lambda *_: made)
    monkeypatch.setattr("bittensor.config.token_symbols_fresh", lambda _network: True)
    monkeypatch.setattr("bittensor.config.load_token_symbols", lambda _network: {})
    return made


@pytest.fixture
def chain(substrate: Substrate) -> adapter.BittensorChain:
    return adapter.BittensorChain(URL)


async def test_neurons_come_by_uid_each_with_its_own_commitment(substrate: Substrate, chain) -> None:
    subnet = await chain.subnet(NETUID)
    assert subnet.block == 100
    assert subnet.neurons == (Neuron(0, ALICE.ss58_address, None, None), Neuron(1, BOB.ss58_address, None, None))


async def test_one_hostile_commitment_hides_no_others(substrate: Substrate, chain) -> None:
    plain = {"block": 7, "deposit": 0, "info": {"fields": [{"Raw5": "0x616c706861"}]}}
    sealed = {"block": 8, "info": {"fields": [{"TimelockEncrypted": {"encrypted": "0x00", "reveal_round": 1}}]}}
    substrate.maps["CommitmentOf"] = [(ALICE.ss58_address, plain), (BOB.ss58_address, sealed), ("gone", plain)]
    # Revealed by drand, twelve bytes that begin like hex and are not.
    substrate.maps["RevealedCommitments"] = [(BOB.ss58_address, [("0xzzzzzzzzzzz", 9)])]
    alice, bob = (await chain.subnet(NETUID)).neurons
    assert (alice.commitment, alice.committed_block) == ("alpha", 7)
    assert bob.commitment.startswith("(not a plain text")


async def test_a_missing_subnet_is_no_empty_one(chain) -> None:
    with pytest.raises(NotRegistered, match=f"There is no subnet 9 on {URL}"):
        await chain.subnet(9)


async def test_the_last_update_is_the_hotkeys_own(chain) -> None:
    assert await chain.last_update(NETUID, BOB.ss58_address) == 95
    assert await chain.last_update(NETUID, "nobody") is None


async def test_a_commitment_is_sent_once_and_its_block_comes_back(substrate: Substrate, chain) -> None:
    assert await chain.commit(NETUID, "alpha", ALICE) == 101
    assert len(substrate.sent) == 1


@pytest.mark.parametrize("text", ["", "x" * 129, "é" * 65])
async def test_what_does_not_fit_is_never_sent(substrate: Substrate, chain, text: str) -> None:
    with pytest.raises(ChainRejected):
        await chain.commit(NETUID, text, ALICE)
    assert substrate.sent == []


REFUSALS: list[tuple[Callable[[], Exception], type[ChainError], str]] = [
    (lambda: bt.ChainError("no", "AccountNotAllowedCommit"), NotRegistered, "btcli subnets register --netuid 5"),
    (lambda: bt.ChainError("no", "HotKeyNotRegisteredInSubNet"), NotRegistered, "--hotkey-name"),
    (lambda: bt.ChainError("no", "SpaceLimitExceeded"), RateLimited, "used up its space"),
    (lambda: bt.ChainError("no", "SettingWeightsTooFast"), RateLimited, "set too recently"),
    (lambda: bt.ChainError("no", "NeuronNoValidatorPermit"), ChainRejected, "no validator permit"),
    (lambda: bt.ChainError("no", "NotEnoughStakeToSetWeights"), ChainRejected, "too little stake"),
    (lambda: bt.ChainError("no", "SomethingNew"), ChainRejected, "refused the write: SomethingNew"),
    (lambda: bt.ChainError("Connection lost while waiting for the extrinsic"), AmbiguousWrite, "look it up"),
    (lambda: bt.ChainError("Extrinsic usurped: {}", "Usurped"), AmbiguousWrite, "look it up"),
    (lambda: bt.ChainError("Extrinsic retracted: {}", "Retracted"), AmbiguousWrite, "look it up"),
    (lambda: bt.RpcConnectionError("gone"), AmbiguousWrite, "look it up"),
    (lambda: bt.ConnectionNotReady("closed"), AmbiguousWrite, "look it up"),
    (lambda: OSError("reset"), AmbiguousWrite, "look it up"),
    (lambda: ValueError("no variant named Raw129"), ChainRejected, "no variant"),
]


@pytest.mark.parametrize(("make", "kind", "said"), REFUSALS)
async def test_each_refusal_becomes_one_of_ours_with_what_to_do(
    substrate: Substrate, chain, make: Callable[[], Exception], kind: type[ChainError], said: str
) -> None:
    substrate.refuse = make()
    with pytest.raises(kind) as caught:
        await chain.commit(NETUID, "alpha", ALICE)
    assert type(caught.value) is kind
    assert said in str(caught.value)
    substrate.refuse = None
    assert await chain.commit(NETUID, "alpha", ALICE) == 101
    assert substrate.connections == 2, "after trouble the connection is a fresh one"


FAILURES: list[tuple[Callable[[], Exception], type[ChainError]]] = [
    (lambda: bt.RpcConnectionError("gone"), ChainUnreachable),
    (lambda: bt.RpcPolicyError("slow down", retry_after="5"), ChainUnreachable),
    (lambda: bt.ChainError("-32000 internal"), ChainUnreachable),
    (lambda: OSError("reset"), ChainUnreachable),
    (TimeoutError, ChainUnreachable),
    (lambda: ValueError("Storage function not found"), ChainError),
]


@pytest.mark.parametrize(("make", "kind"), FAILURES)
async def test_each_failed_read_becomes_one_of_ours_and_the_next_works(
    substrate: Substrate, chain, make: Callable[[], Exception], kind: type[ChainError]
) -> None:
    substrate.fail = make()
    with pytest.raises(ChainError) as caught:
        await chain.finalized_block()
    assert type(caught.value) is kind
    assert "node.example" in str(caught.value)
    substrate.fail = None
    assert await chain.finalized_block() == 100


@pytest.mark.parametrize("weights", [{}, {1: 0.0}, {1: -1.0}, {1: float("nan")}, {1: float("inf")}])
async def test_weights_that_mean_nothing_are_never_sent(substrate: Substrate, chain, weights) -> None:
    with pytest.raises(ChainRejected):
        await chain.set_weights(NETUID, weights, ALICE)
    assert substrate.sent == []


async def test_a_stalled_node_is_left_and_the_other_endpoints_are_tried_in_turn(
    substrate: Substrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, used = 0.0, []

    def connect(endpoint: str, *_: object) -> Substrate:
        used.append(endpoint)
        return substrate

    monkeypatch.setattr(adapter, "_rpc", connect)
    monkeypatch.setattr(adapter, "_resolve", lambda _: (adapter.deque(["ws://one", "ws://two"]), ()))
    chain = adapter.BittensorChain("finney", clock=lambda: now)
    await chain.finalized_block()
    now = 121.0
    with pytest.raises(ChainUnreachable, match="finney has finalized no block for 121 s: it stands at 100"):
        await chain.finalized_block()
    substrate.head = 101
    assert await chain.finalized_block() == 101
    assert used == ["ws://one", "ws://two"]


async def test_calls_at_the_same_time_share_one_connection(substrate: Substrate, chain) -> None:
    await asyncio.gather(*(chain.finalized_block() for _ in range(10)))
    assert substrate.connections == 1

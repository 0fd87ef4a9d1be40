"""The dev ledger: a whole chain in one SQLite file, for one machine and no node.

Blocks come by the clock. A write goes into the next block and returns once that block is final, so that a block,
once read, never changes and a writer always reads its own write.
"""

import asyncio
import contextlib
import hashlib
import math
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kinitro.chain.base import Neuron, Signer, Subnet, WeightsMode
from kinitro.chain.commitment import MAX_COMMITMENT_BYTES
from kinitro.chain.ss58 import encode_ss58
from kinitro.errors import ChainError, ChainRejected, ChainUnreachable, NotRegistered

T = TypeVar("T")

MAX_UID = 65535
_FORMAT = 1
_BUSY_TIMEOUT_S = 10.0
_SCHEMA = """
create table clock (genesis blob not null, block_s real not null, block integer not null, made_at real not null);
create table neurons (netuid integer, uid integer, block integer, hotkey text not null,
    primary key (netuid, uid, block)) without rowid;
create table commitments (netuid integer, hotkey text, block integer, text text not null,
    primary key (netuid, hotkey, block)) without rowid;
create table weights (netuid integer, hotkey text, block integer, version_key integer not null, uid integer,
    value integer not null, primary key (netuid, hotkey, block, uid)) without rowid;
"""


@dataclass(frozen=True, slots=True)
class DevSigner:
    """A hotkey of the dev ledger. There is nothing to sign with: whoever can write the file can be anyone."""

    ss58_address: str


@dataclass(frozen=True, slots=True)
class DevWeights:
    """The weights one validator set last: uid to u16, zeros dropped."""

    hotkey: str
    block: int
    version_key: int
    values: Mapping[int, int]


def dev_signer(wallet_name: str, hotkey_name: str) -> DevSigner:
    """The same address for the same names, always; no wallet file is read."""
    key = hashlib.blake2b(f"kinitro dev\0{wallet_name}\0{hotkey_name}".encode(), digest_size=32).digest()
    return DevSigner(encode_ss58(key))


class DevLedger:
    """A `Chain` kept at `path`, made there when missing; any number of processes may use it at once.

    `block_s` is the time between blocks, fixed when the file is made. Nothing is signed or rate limited; the rest
    behaves as a chain does, `NotRegistered` and `ChainRejected` included.
    """

    def __init__(self, path: Path, *, block_s: float = 1.0) -> None:
        self._path = path
        self._block_s = block_s

    async def genesis(self) -> str:
        """See `Chain`."""
        return await self.block_hash(0)

    async def finalized_block(self) -> int:
        """See `Chain`. Never goes backwards, whatever the clock does."""
        return await self._run(_tick)

    async def block_hash(self, block: int) -> str:
        """See `Chain`. `ChainError` for a block that is not final yet."""
        return await self._run(lambda connection: _block_hash(connection, block))

    async def subnet(self, netuid: int) -> Subnet:
        """See `Chain`."""
        return await self._run(lambda connection: _read_subnet(connection, netuid))

    async def register(self, netuid: int, hotkey: str, *, uid: int | None = None) -> int:
        """Registers a hotkey and returns its uid: the one it has, else `uid`, else the lowest free one.

        The first registration makes the subnet. A `uid` that another hotkey holds passes to this one: the other is
        deregistered.
        """
        block, taken = await self._run(lambda connection: _register(connection, netuid, hotkey, uid))
        await self._finality(block)
        return taken

    async def commit(self, netuid: int, text: str, signer: Signer) -> int:
        """See `Chain`. `ChainRejected` unless the text takes 1 to 128 bytes."""
        block = await self._run(lambda connection: _commit(connection, netuid, text, signer.ss58_address))
        await self._finality(block)
        return block

    async def set_weights(
        self, netuid: int, weights: Mapping[int, float], signer: Signer, *, version_key: int = 0
    ) -> WeightsMode:
        """See `Chain`. `ChainRejected` when nothing is positive or a uid is not registered."""
        block = await self._run(
            lambda connection: _set_weights(connection, netuid, weights, signer.ss58_address, version_key)
        )
        await self._finality(block)
        return WeightsMode.PLAIN

    async def last_update(self, netuid: int, hotkey: str) -> int | None:
        """See `Chain`. Registration does not count."""
        return await self._run(lambda connection: _last_update(connection, netuid, hotkey))

    async def has_permit(self, netuid: int, hotkey: str) -> bool:
        """See `Chain`. Whoever is registered may."""
        return hotkey in {neuron.hotkey for neuron in (await self.subnet(netuid)).neurons}

    async def weights(self, netuid: int) -> tuple[DevWeights, ...]:
        """What each validator of the subnet set last, by hotkey."""
        return await self._run(lambda connection: _read_weights(connection, netuid))

    async def close(self) -> None:
        """See `Chain`. Nothing is held between calls."""

    async def _run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._transaction, operation)

    def _transaction(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with self._connection() as connection:
                return operation(connection)
        except (sqlite3.Error, OSError) as error:
            raise ChainUnreachable(
                f"The dev ledger {self._path} can't be used: {error}.",
                advice="Check the file's permissions and the disk; to start a new ledger, move the file away.",
            ) from error

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if not self._path.exists():
            _create(self._path, self._block_s)
        with contextlib.closing(
            sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        ) as connection:
            connection.execute("pragma synchronous = normal")
            _check_format(connection, self._path)
            # One kind of transaction, taken for writing at once, can't deadlock with itself; reads also tick the clock.
            connection.execute("begin immediate")
            try:
                yield connection
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")

    async def _finality(self, block: int) -> None:
        while True:
            if await self.finalized_block() >= block:
                return
            await asyncio.sleep(self._block_s / 10)


def _create(path: Path, block_s: float) -> None:
    """Makes the file whole under another name first, so that two processes starting at once share the winner's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as directory:
        draft = Path(directory) / "ledger"
        with contextlib.closing(sqlite3.connect(draft)) as connection:
            connection.execute("pragma journal_mode = wal")
            connection.executescript(f"begin; {_SCHEMA} pragma user_version = {_FORMAT}; commit;")
            connection.execute("insert into clock values (?, ?, 0, ?)", (secrets.token_bytes(32), block_s, time.time()))
            connection.commit()
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("pragma user_version").fetchone()
    if found != _FORMAT:
        raise ChainError(
            f"The dev ledger {path} has format {found}; this version reads {_FORMAT}.",
            advice="Move the file away to start a new ledger, or use the Kinitro version that made it.",
        )


def _tick(connection: sqlite3.Connection) -> int:
    """Advances the clock to now and returns the latest block."""
    block_s, block, made_at = connection.execute("select block_s, block, made_at from clock").fetchone()
    now = time.time()
    made = math.floor((now - made_at) / block_s)
    if made < 0:
        # The machine's clock was set back: go on counting from here.
        connection.execute("update clock set made_at = ?", (now,))
    elif made > 0:
        block += made
        connection.execute("update clock set block = ?, made_at = ?", (block, made_at + made * block_s))
    return int(block)


def _block_hash(connection: sqlite3.Connection, block: int) -> str:
    head = _tick(connection)
    if not 0 <= block <= head:
        raise ChainError(f"Block {block} of the dev ledger is not final; the latest is {head}.")
    (genesis,) = connection.execute("select genesis from clock").fetchone()
    content = genesis if block == 0 else hashlib.sha256(genesis + block.to_bytes(8, "big")).digest()
    return f"0x{content.hex()}"


def _read_subnet(connection: sqlite3.Connection, netuid: int) -> Subnet:
    block = _tick(connection)
    neurons = _hotkeys(connection, netuid, block)
    if not neurons:
        raise _no_subnet(netuid)
    commitments = {
        hotkey: (text, at)
        for hotkey, text, at in connection.execute(
            "select hotkey, text, max(block) from commitments where netuid = ? and block <= ? group by hotkey",
            (netuid, block),
        )
    }
    nothing = (None, None)
    return Subnet(
        netuid, block, tuple(Neuron(uid, hotkey, *commitments.get(hotkey, nothing)) for uid, hotkey in neurons.items())
    )


def _hotkeys(connection: sqlite3.Connection, netuid: int, block: int) -> dict[int, str]:
    """Uid to hotkey at a block, by uid."""
    rows = connection.execute(
        "select uid, hotkey, max(block) from neurons where netuid = ? and block <= ? group by uid order by uid",
        (netuid, block),
    )
    return {uid: hotkey for uid, hotkey, _ in rows}


def _register(connection: sqlite3.Connection, netuid: int, hotkey: str, uid: int | None) -> tuple[int, int]:
    block = _tick(connection) + 1
    held = _hotkeys(connection, netuid, block)
    for present, owner in held.items():
        if owner == hotkey and uid in (None, present):
            return block, present
    if hotkey in held.values():
        raise ChainRejected(f"Hotkey {hotkey} is already registered on netuid {netuid}, under another uid.")
    chosen = next(free for free in range(len(held) + 1) if free not in held) if uid is None else uid
    if not 0 <= chosen <= MAX_UID:
        raise ChainRejected(f"Uid {chosen} is not between 0 and {MAX_UID}.")
    connection.execute("insert or replace into neurons values (?, ?, ?, ?)", (netuid, chosen, block, hotkey))
    return block, chosen


def _commit(connection: sqlite3.Connection, netuid: int, text: str, hotkey: str) -> int:
    block = _writable(connection, netuid, hotkey)
    size = len(text.encode(errors="surrogatepass"))
    if not 1 <= size <= MAX_COMMITMENT_BYTES:
        raise ChainRejected(f"A commitment takes 1 to {MAX_COMMITMENT_BYTES} bytes; this one takes {size}.")
    connection.execute("insert or replace into commitments values (?, ?, ?, ?)", (netuid, hotkey, block, text))
    return block


def _set_weights(
    connection: sqlite3.Connection, netuid: int, weights: Mapping[int, float], hotkey: str, version_key: int
) -> int:
    block = _writable(connection, netuid, hotkey)
    unknown = sorted(set(weights) - set(_hotkeys(connection, netuid, block)))
    if unknown:
        raise ChainRejected(f"Weights name uids that netuid {netuid} does not have: {unknown[:10]}.")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or not any(weights.values()):
        raise ChainRejected("Weights must be finite, not negative, and not all zero.")
    largest = max(weights.values())
    values = {uid: round(weight / largest * 65535) for uid, weight in weights.items()}
    connection.execute("delete from weights where netuid = ? and hotkey = ? and block = ?", (netuid, hotkey, block))
    connection.executemany(
        "insert into weights values (?, ?, ?, ?, ?, ?)",
        [(netuid, hotkey, block, version_key, uid, value) for uid, value in values.items() if value],
    )
    return block


def _last_update(connection: sqlite3.Connection, netuid: int, hotkey: str) -> int | None:
    block = _tick(connection)
    if hotkey not in _hotkeys(connection, netuid, block).values():
        return None
    (last,) = connection.execute(
        "select max(block) from weights where netuid = ? and hotkey = ? and block <= ?", (netuid, hotkey, block)
    ).fetchone()
    return None if last is None else int(last)


def _read_weights(connection: sqlite3.Connection, netuid: int) -> tuple[DevWeights, ...]:
    rows = connection.execute(
        "select hotkey, block, version_key, uid, value from weights as w where netuid = ?1 and block = "
        "(select max(block) from weights where netuid = ?1 and hotkey = w.hotkey and block <= ?2) order by hotkey, uid",
        (netuid, _tick(connection)),
    )
    found: dict[tuple[str, int, int], dict[int, int]] = {}
    for hotkey, block, version_key, uid, value in rows:
        found.setdefault((hotkey, block, version_key), {})[uid] = value
    return tuple(DevWeights(*key, values) for key, values in found.items())


def _writable(connection: sqlite3.Connection, netuid: int, hotkey: str) -> int:
    """The block the next write goes into; `NotRegistered` when this hotkey may not write."""
    block = _tick(connection) + 1
    held = _hotkeys(connection, netuid, block)
    if not held:
        raise _no_subnet(netuid)
    if hotkey not in held.values():
        raise NotRegistered(
            f"Hotkey {hotkey} is not registered on netuid {netuid} of the dev ledger.",
            advice="Check --wallet-name and --hotkey-name, or register it first.",
        )
    return block


def _no_subnet(netuid: int) -> NotRegistered:
    return NotRegistered(
        f"The dev ledger has no subnet {netuid}.",
        advice="Check --netuid. A first policy makes it: `kinitro miner deploy --repo USER/NAME --path FOLDER "
        f"--netuid {netuid} --network dev`, or `kinitro demo --setup-only` for bundled ones on netuid 1.",
    )

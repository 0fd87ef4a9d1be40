"""Bittensor behind the `Chain` contract: the one file that imports its SDK, and only when a chain is opened.

A connection is never trusted after trouble: any failure drops it, and the next call makes a fresh one. That also
drops the SDK's memory of nonces, which a write of unknown fate leaves wrong.
"""

import asyncio
import contextlib
import math
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from kinitro.chain.base import Neuron, Signer, Subnet, WeightsMode, shown_network
from kinitro.chain.commitment import MAX_COMMITMENT_BYTES, commitment_text
from kinitro.chain.refusals import Write, refusal, unknown_fate
from kinitro.errors import (
    ChainError,
    ChainRejected,
    ChainUnreachable,
    ConfigurationError,
    NotRegistered,
    how_to_install,
)

if TYPE_CHECKING:
    import bittensor as bt

T = TypeVar("T")

READ_DEADLINE_S = 60.0
"""For one call, connecting included: a subnet of 256 miners takes some fourteen round trips."""
WRITE_DEADLINE_S = 120.0
"""For a write to get into a block."""
STALE_AFTER_S = 120.0
"""A node that finalizes no block for this long is no source of truth."""
_CLOSE_S = 5.0


class BittensorChain:
    """A `Chain` on `finney`, `test`, `local` or a `ws://` or `wss://` URL.

    Nothing is connected until the first call. `ConfigurationError` when the SDK is missing or the name means nothing
    to it. Watches that finalized blocks keep coming: `ChainUnreachable` when none came for `stale_after_s`.
    """

    def __init__(
        self,
        network: str,
        *,
        read_deadline_s: float = READ_DEADLINE_S,
        write_deadline_s: float = WRITE_DEADLINE_S,
        stale_after_s: float = STALE_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._network = network
        self._shown = shown_network(network)
        self._endpoints, self._archives = _resolve(network)
        self._read_deadline_s = read_deadline_s
        self._write_deadline_s = write_deadline_s
        self._stale_after_s = stale_after_s
        self._clock = clock
        self._head, self._head_at = -1, clock()
        self._client: bt.Client | None = None
        self._rpc: bt.RpcSubstrate | None = None
        self._connecting = asyncio.Lock()

    async def genesis(self) -> str:
        """See `Chain`."""
        return await self.block_hash(0)

    async def finalized_block(self) -> int:
        """See `Chain`. `ChainUnreachable` also when the node answers but has stopped finalizing."""
        return await self._read(self._finalized)

    async def block_hash(self, block: int) -> str:
        """See `Chain`. `ChainError` for a block that is not final yet."""
        return await self._read(lambda client: self._block_hash(client, block))

    async def subnet(self, netuid: int) -> Subnet:
        """See `Chain`. About 14 round trips for 256 neurons."""
        return await self._read(lambda client: self._subnet(client, netuid))

    async def last_update(self, netuid: int, hotkey: str) -> int | None:
        """See `Chain`."""
        return await self._read(lambda client: self._last_update(client, netuid, hotkey))

    async def has_permit(self, netuid: int, hotkey: str) -> bool:
        """See `Chain`."""
        return await self._read(lambda client: self._has_permit(client, netuid, hotkey))

    async def commit(self, netuid: int, text: str, signer: Signer) -> int:
        """See `Chain`. Returns the block it got into, which may not be final yet.

        Raises:
            NotRegistered: also for a subnet that does not exist; the chain makes no difference.
            RateLimited: the epoch's space for commitments is used up.
            AmbiguousWrite: the connection failed after the write may have been sent.
        """
        raw = text.encode(errors="surrogatepass")
        if not 1 <= len(raw) <= MAX_COMMITMENT_BYTES:
            raise ChainRejected(f"A commitment takes 1 to {MAX_COMMITMENT_BYTES} bytes; this one takes {len(raw)}.")

        async def send(client: "bt.Client") -> "bt.ExtrinsicResult":
            import bittensor as bt  # noqa: PLC0415 - optional and slow

            fields = [{f"Raw{len(raw)}": "0x" + raw.hex()}]
            call = bt.calls.Commitments.set_commitment(netuid=netuid, info={"fields": fields})
            return await client.submit_call(call, _signing(signer), signer="hotkey", **_INCLUSION)

        result = await self._write(send, netuid, signer)
        return _block_of(result)

    async def set_weights(
        self, netuid: int, weights: Mapping[int, float], signer: Signer, *, version_key: int = 0
    ) -> WeightsMode:
        """See `Chain`. The subnet's own settings decide between plain weights and a timelocked commit.

        Raises:
            NotRegistered: the hotkey is not registered on this subnet.
            RateLimited: weights were set too recently.
            ChainRejected: no validator permit, too little stake, nothing positive, or a uid that does not exist.
            AmbiguousWrite: the connection failed after the write may have been sent.
        """
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or not any(weights.values()):
            raise ChainRejected("Weights must be finite, not negative, and not all zero.")

        async def send(client: "bt.Client") -> "bt.ExtrinsicResult":
            import bittensor as bt  # noqa: PLC0415 - optional and slow

            intent = bt.SetWeights(netuid=netuid, weights=dict(weights), version_key=version_key)
            return await client.execute(intent, _signing(signer), **_INCLUSION)

        result = await self._write(send, netuid, signer)
        return WeightsMode.COMMIT_REVEAL if "reveal_round" in result.data else WeightsMode.PLAIN

    async def close(self) -> None:
        """See `Chain`."""
        client, self._client, self._rpc = self._client, None, None
        if client is not None:
            await _close(client)

    async def _read(self, operation: Callable[["bt.Client"], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self._read_deadline_s):
                return await operation(await self._connected())
        except _foreign_errors() as error:
            await self.close()
            raise self._unreadable(error) from error
        except (ChainUnreachable, asyncio.CancelledError):
            await self.close()
            raise

    async def _write(
        self, send: Callable[["bt.Client"], Awaitable["bt.ExtrinsicResult"]], netuid: int, signer: Signer
    ) -> "bt.ExtrinsicResult":
        """Connects first, under the deadline of a read: a failure until then has certainly written nothing."""
        client = await self._read(_itself)
        try:
            async with asyncio.timeout(self._write_deadline_s):
                return (await send(client)).raise_for_failure()
        except _foreign_errors() as error:
            await self.close()
            raise self._unwritten(error, netuid, signer) from error
        except asyncio.CancelledError:
            await self.close()
            raise

    async def _connected(self) -> "bt.Client":
        async with self._connecting:
            if self._client is None:
                self._client = await self._connect()
            return self._client

    async def _connect(self) -> "bt.Client":
        import bittensor as bt  # noqa: PLC0415 - optional and slow

        first, *others = self._endpoints
        opened: list[_Closable] = []
        rpc = _rpc(first, others, self._archives, opened)
        client = bt.Client(self._network, substrate=rpc)
        try:
            await client.connect()
        except BaseException:
            for connection in opened:
                await _close(connection)
            raise
        self._rpc = rpc
        return client

    async def _finalized(self, client: "bt.Client") -> int:
        head = int(await client.finalized_block())
        if head > self._head:
            self._head, self._head_at = head, self._clock()
        elif (age := self._clock() - self._head_at) > self._stale_after_s:
            # Where there are several endpoints, the next connection goes to another.
            self._endpoints.rotate(-1)
            raise ChainUnreachable(
                f"{self._shown} has finalized no block for {age:.0f} s: it stands at {head}.",
                advice="The node, or its own connection to the network, has stalled; try another with --network wss://...",
            )
        return head

    async def _block_hash(self, client: "bt.Client", block: int) -> str:
        if not 0 <= block <= self._head:
            head = await self._finalized(client)
            if not 0 <= block <= head:
                raise ChainError(f"Block {block} of {self._shown} is not final; the latest is {head}.")
        assert self._rpc is not None
        return str(await self._rpc.block_hash(block))

    async def _subnet(self, client: "bt.Client", netuid: int) -> Subnet:
        import bittensor as bt  # noqa: PLC0415 - optional and slow

        view = await client.at(await self._finalized(client))
        if not await view.query(bt.storage.SubtensorModule.NetworksAdded, [netuid]):
            raise NotRegistered(
                f"There is no subnet {netuid} on {self._shown}.", advice="Check --netuid and --network."
            )
        keys = await view.query_map(bt.storage.SubtensorModule.Keys, [netuid])
        # Not the SDK's own reading of commitments: it also decodes what was revealed of sealed ones, and a hostile one
        # makes that fail for the whole subnet. Hotkeys that are no longer registered keep their entries there.
        records = await view.query_map(bt.storage.Commitments.CommitmentOf, [netuid])
        commitments = {str(hotkey): record for hotkey, record in records}
        neurons = sorted((int(uid), str(hotkey)) for uid, hotkey in keys)
        return Subnet(netuid, view.block, tuple(_neuron(uid, key, commitments.get(key)) for uid, key in neurons))

    async def _last_update(self, client: "bt.Client", netuid: int, hotkey: str) -> int | None:
        import bittensor as bt  # noqa: PLC0415 - optional and slow

        found = await self._of_neuron(client, netuid, hotkey, bt.storage.SubtensorModule.LastUpdate)
        return None if found is None else int(found)

    async def _has_permit(self, client: "bt.Client", netuid: int, hotkey: str) -> bool:
        import bittensor as bt  # noqa: PLC0415 - optional and slow

        return bool(await self._of_neuron(client, netuid, hotkey, bt.storage.SubtensorModule.ValidatorPermit))

    async def _of_neuron(self, client: "bt.Client", netuid: int, hotkey: str, column: Any) -> Any:
        """A neuron's entry in one of the subnet's columns; None when the hotkey is not registered.

        Any: the SDK names storage items by attributes that it makes, and values have the item's type.
        """
        import bittensor as bt  # noqa: PLC0415 - optional and slow

        view = await client.at(await self._finalized(client))
        uid = await view.query(bt.storage.SubtensorModule.Uids, [netuid, hotkey])
        values = await view.query(column, [netuid])
        return values[uid] if uid is not None and values and uid < len(values) else None

    def _unreadable(self, error: Exception) -> ChainError:
        import bittensor as bt  # noqa: PLC0415 - optional and slow

        if isinstance(error, TimeoutError):
            return ChainUnreachable(
                f"{self._shown} did not answer within {self._read_deadline_s:g} s.", advice=_CHECK_NETWORK
            )
        if isinstance(error, ValueError) and not isinstance(error, bt.BittensorError):
            return ChainError(
                f"{self._shown} runs a version this one can't read: {_cause(error)}.",
                advice="Update Kinitro and its `chain` extra.",
            )
        return ChainUnreachable(f"{self._shown} can't be read: {_cause(error)}.", advice=_CHECK_NETWORK)

    def _unwritten(self, error: Exception, netuid: int, signer: Signer) -> ChainError:
        import bittensor as bt  # noqa: PLC0415 - optional and slow

        write = Write(self._shown, netuid, signer.ss58_address)
        if isinstance(error, bt.ChainError):
            return refusal(write, error.name or "", error.code.value, _cause(error))
        if isinstance(error, (bt.RpcConnectionError, bt.ConnectionNotReady, OSError, EOFError)):
            return unknown_fate(write, _cause(error))
        return ChainRejected(f"{self._shown} can't take this write: {_cause(error)}.")


def read_hotkey(file: Path) -> Signer:
    """The key in a btcli keyfile; `ConfigurationError` says what is wrong with it.

    An encrypted one needs `BT_WALLET_PASSWORD`, or a terminal to ask on.
    """
    _sdk_settings("this wallet")
    from bittensor import keyfiles  # noqa: PLC0415 - optional and slow

    keyfile = keyfiles.Keyfile(file)
    password = os.environ.get("BT_WALLET_PASSWORD") or os.environ.get(keyfile.env_var_name())
    if not password and keyfile.is_encrypted() and not sys.stdin.isatty():
        raise ConfigurationError(
            f"The hotkey {file} is encrypted, and there is no terminal to ask for its password on.",
            advice="Set BT_WALLET_PASSWORD, or run this command in a terminal.",
        )
    try:
        key = cast("bt.Signer", keyfile.get_keypair(password))
        key.sign(b"can it sign?")
    except keyfiles.WrongPasswordError:
        raise ConfigurationError(f"The password for the hotkey {file} is wrong.", advice=_PASSWORD) from None
    except (keyfiles.KeyfileError, ValueError, OSError, EOFError) as error:
        raise ConfigurationError(
            f"The hotkey {file} can't be used: {_cause(error)}.",
            advice="It must be a hotkey that btcli made, with its private key, and readable by this user.",
        ) from None
    return key


_PASSWORD = "Try again, or correct BT_WALLET_PASSWORD if it is set."  # noqa: S105 - advice, no password
_INCLUSION: dict[str, Any] = {"wait_for_inclusion": True, "wait_for_finalization": False}  # Any: keyword arguments
_CHECK_NETWORK = "Check --network and this machine's connection; the next attempt makes a fresh connection."


class _Closable(Protocol):
    async def close(self) -> None: ...


def _rpc(endpoint: str, fallbacks: list[str], archives: tuple[str, ...], opened: list[_Closable]) -> "bt.RpcSubstrate":
    """The SDK's transport. It puts what it opens into `opened`, since it forgets the socket of a cancelled start."""
    import bittensor as bt  # noqa: PLC0415 - optional and slow

    class Tracked(bt.RpcSubstrate):
        def _interface(self, endpoint: str, fallbacks: list[str]) -> Any:  # Any: a private type of the SDK
            connection = super()._interface(endpoint, fallbacks)
            opened.append(connection)
            return connection

    return Tracked(endpoint, fallback_endpoints=fallbacks, archive_endpoints=list(archives))


async def _close(connection: _Closable) -> None:
    """A half-dead socket may neither close nor say so in any particular way; it is left behind then."""
    with contextlib.suppress(*_foreign_errors()):
        async with asyncio.timeout(_CLOSE_S):
            await connection.close()


def _foreign_errors() -> tuple[type[Exception], ...]:
    """Everything the SDK and its transport are known to raise (ValueError: SDK and runtime do not fit)."""
    import bittensor as bt  # noqa: PLC0415 - optional and slow

    return (bt.BittensorError, ValueError, OSError, TimeoutError, EOFError)


def _resolve(network: str) -> tuple[deque[str], tuple[str, ...]]:
    """Endpoints in the order they are tried, and those that keep old state."""
    settings = _sdk_settings(f"network {shown_network(network)}")
    try:
        label, url = settings.resolve_endpoint(network)
    except ValueError as error:
        raise ConfigurationError(
            f"There is no network called {network!r}: {error}.",
            advice="Use --network finney, test, local, a ws:// or wss:// URL, or dev.",
        ) from None
    fallbacks = [other for other in settings.default_fallback_endpoints(label) if other != url]
    return deque([url, *fallbacks]), tuple(settings.default_archive_endpoints(label))


def _sdk_settings(what: str) -> ModuleType:
    try:
        from bittensor import settings  # noqa: PLC0415 - optional and slow
    except ImportError:
        raise ConfigurationError(
            f"The Bittensor SDK, which {what} needs, is not installed.",
            advice=f"{how_to_install('chain')} Or use `--network dev`.",
        ) from None
    return settings


def _cause(error: BaseException) -> str:
    """An error's text on one line, or its kind when it says nothing."""
    return " ".join(str(error).split()).rstrip(".")[:300] or type(error).__name__


def _signing(signer: Signer) -> "bt.Signer":
    import bittensor as bt  # noqa: PLC0415 - optional and slow

    if isinstance(signer, bt.Signer):
        return signer
    raise ConfigurationError(
        f"Hotkey {signer.ss58_address} comes without a key to sign with.",
        advice="Load it from a wallet: --wallet-name, --hotkey-name.",
    )


def _neuron(uid: int, hotkey: str, record: Any) -> Neuron:  # Any: decoded storage, as its writer made it
    if not isinstance(record, dict):
        return Neuron(uid, hotkey, None, None)
    return Neuron(uid, hotkey, commitment_text(record.get("info")), int(record.get("block") or 0))


def _block_of(result: "bt.ExtrinsicResult") -> int:
    assert result.extrinsic_id is not None, "inclusion was waited for"
    return int(result.extrinsic_id.partition("-")[0])


async def _itself(client: "bt.Client") -> "bt.Client":
    return client

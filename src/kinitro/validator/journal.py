"""What this validator has tried to set: JSON lines, kept so that a restart neither repeats nor forgets a write."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kinitro.chain import WeightsMode
from kinitro.errors import ConfigurationError
from kinitro.schemas import WeightsU16


class Fate(StrEnum):
    """`sending`: may have arrived, look it up. `set`: seen on chain. `failed`: known not to have arrived."""

    SENDING = "sending"
    SET = "set"
    FAILED = "failed"


class Attempt(BaseModel):
    """One attempt to set weights.

    `block` is the finalized block it was begun at and, once `set`, the one it was written in; `before` is the hotkey's
    last update as it was before.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    fate: Fate
    genesis: str
    cycle_id: int
    weights: WeightsU16
    block: int
    before: int | None = None
    mode: WeightsMode | None = None
    export_sha256: str | None = None
    reason: str | None = None


class Journal:
    """The attempts of one hotkey on one netuid. Made by `open_journal`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def last(self, genesis: str) -> Attempt | None:
        """The latest attempt on this chain. A line that a crash cut short counts as not written."""
        for line in reversed(self._path.read_bytes().splitlines()):
            try:
                attempt = Attempt.model_validate_json(line)
            except ValidationError:
                continue
            if attempt.genesis == genesis:
                return attempt
        return None

    def append(self, attempt: Attempt) -> None:
        """Writes one line; it is in the file when this returns."""
        with self._path.open("ab") as file:
            # After a line cut short, this one must still stand by itself.
            start = b"\n" if file.tell() and not self._path.read_bytes().endswith(b"\n") else b""
            file.write(start + attempt.model_dump_json(exclude_none=True).encode() + b"\n")


@contextmanager
def open_journal(directory: Path, netuid: int, hotkey: str) -> Iterator[Journal]:
    """`DIRECTORY/NETUID-HOTKEY.jsonl`, locked: two validators with one hotkey would overwrite each other's weights.

    Raises `ConfigurationError` when another process has it, or it can't be written.
    """
    path = directory / f"{netuid}-{hotkey}.jsonl"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigurationError(
            f"The validator's records {path} can't be written: {error.strerror}.",
            advice="Correct the permissions, or choose another place with KINITRO_HOME.",
        ) from None
    try:
        _lock(handle, netuid, hotkey)
        yield Journal(path)
    finally:
        os.close(handle)


def _lock(handle: int, netuid: int, hotkey: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(
            f"Another `kinitro validate` sets the weights of {hotkey} on netuid {netuid} already.",
            advice="Stop it first; one hotkey has one validator.",
        ) from None

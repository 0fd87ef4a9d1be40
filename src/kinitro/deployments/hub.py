"""HuggingFace: the one file that imports its SDK. Everything a repo holds is hostile until checked.

Whose fault a failure is: what the hub itself says of the repo (missing, too big, odd files, private while our own
access works) is its owner's; a hub that is away, slow, rate limiting or refusing us is ours.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    XetDownloadError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import get_session, hf_raise_for_status
from huggingface_hub.utils.tqdm import disable_progress_bars
from pydantic import SecretStr

from kinitro.deployments.snapshots import list_files
from kinitro.errors import ConfigurationError, InfrastructureError, PolicyError
from kinitro.types import PolicyRef

T = TypeVar("T")

# httpx2 is the SDK's own HTTP library; its transport errors come through untranslated.
_FAILURES = (httpx2.HTTPError, LocalEntryNotFoundError, ConnectionError, XetDownloadError, HFValidationError)
_GB = 10**9
_MAX_NAME_BYTES = 255
_CALL_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class HubLimits:
    """What is taken from a hub, and how long is waited for it. One attempt at a time, `attempts` in all."""

    max_bytes: int = 5 * _GB
    max_files: int = 10_000
    deadline_s: float = 240.0
    attempts: int = 4
    first_pause_s: float = 1.0

    @classmethod
    def from_environment(cls) -> "HubLimits":
        """The defaults, with `KINITRO_MAX_REPO_SIZE_GB` where it is set."""
        text = os.environ.get("KINITRO_MAX_REPO_SIZE_GB", "5")
        try:
            size = float(text)
        except ValueError:
            size = -1.0
        if not 0 < size < 1e6:
            raise ConfigurationError(
                f"KINITRO_MAX_REPO_SIZE_GB is {text!r}, not a size in gigabytes.",
                advice="Set it to a number such as 5.",
            )
        return cls(max_bytes=int(size * _GB))


class HuggingFaceHub:
    """Fetches snapshots by exact revision from `HF_ENDPOINT`. Without a token it asks anonymously."""

    def __init__(self, token: SecretStr | None = None, limits: HubLimits | None = None) -> None:
        self._token: str | bool = token.get_secret_value() if token and token.get_secret_value() else False
        self._limits = limits or HubLimits.from_environment()
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=self._token)
        disable_progress_bars()

    async def fetch(self, ref: PolicyRef, destination: Path) -> None:
        """Downloads the repo at this revision into an existing empty folder and checks what came.

        Raises:
            PolicyError: `snapshot_missing`, `snapshot_private`, `snapshot_refused` or `snapshot_too_big`.
            InfrastructureError: `hub_unreachable`, `hub_rate_limited`, `hub_refused` or `hub_timeout`.
        """
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                listing = await self._ask(lambda: self._list(ref))
                files = _checked_listing(listing, ref, self._limits)
                await self._ask(lambda: self._download(ref, destination))
                await _in_daemon_thread(lambda: _check_files(destination, files))
        except TimeoutError:
            raise InfrastructureError(
                f"{ref.repo} could not be downloaded within {self._limits.deadline_s:.0f} s.", code="hub_timeout"
            ) from None

    async def check(self) -> None:
        """Raises `InfrastructureError` unless the hub answers us, as whom we ask."""
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                await _in_daemon_thread(self._prove_access)
        except TimeoutError:
            raise _unreachable("it did not answer in time") from None
        except _FAILURES as error:
            raise self._ours(error) from error

    def _prove_access(self) -> None:
        """One request and no retries, unlike the SDK's own listing."""
        path = "/api/whoami-v2" if self._token else "/api/models?limit=1"
        headers = build_hf_headers(token=self._token)
        hf_raise_for_status(get_session().get(self._api.endpoint + path, headers=headers, timeout=_CALL_TIMEOUT_S))

    def _list(self, ref: PolicyRef) -> ModelInfo:
        return self._api.model_info(
            ref.repo, revision=ref.revision, files_metadata=True, timeout=_CALL_TIMEOUT_S, token=self._token
        )

    def _download(self, ref: PolicyRef, destination: Path) -> None:
        snapshot_download(
            ref.repo,
            revision=ref.revision,
            local_dir=destination,
            token=self._token,
            endpoint=self._api.endpoint,
            etag_timeout=_CALL_TIMEOUT_S,
            max_workers=4,
        )

    async def _ask(self, call: Callable[[], T]) -> T:
        """One call, tried again with growing pauses while the failure looks like the hub's passing trouble."""
        for attempt in range(self._limits.attempts):
            try:
                return await _in_daemon_thread(call)
            except _FAILURES as error:
                verdict = await self._verdict(error)
                if not isinstance(verdict, InfrastructureError) or attempt + 1 == self._limits.attempts:
                    raise verdict from error
            # Not for security: executors must not all come back at the same moment.
            await asyncio.sleep(self._limits.first_pause_s * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError("attempts is at least 1")

    async def _verdict(self, error: Exception) -> PolicyError | InfrastructureError:
        """Whose fault a failed call is."""
        status = _status(error)
        if isinstance(error, HFValidationError):
            return PolicyError(f"The hub's rules forbid this repo id: {error}.", code="snapshot_refused")
        if isinstance(error, (GatedRepoError, DisabledRepoError)) or status in (401, 403):
            # The same answer is given to a wrong token and for a private or missing repo: only a working access
            # elsewhere shows that it is the repo.
            try:
                await self.check()
            except InfrastructureError as ours:
                return ours
            return PolicyError(
                "The repo is missing, private or gated: the hub refuses it while our access works.",
                code="snapshot_private",
                advice="Make the repo public.",
            )
        if isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError)) or status == 404:
            return PolicyError("The hub has no such repo or revision.", code="snapshot_missing")
        return self._ours(error)

    def _ours(self, error: Exception) -> InfrastructureError:
        status = _status(error)
        if status == 429:
            return InfrastructureError(
                "The hub asks us to slow down (429).",
                code="hub_rate_limited",
                advice="Set KINITRO_EXECUTOR_MINER_HF_TOKEN for a higher limit.",
            )
        if status in (401, 403):
            return InfrastructureError(
                f"The hub refuses our own access ({status}).",
                code="hub_refused",
                advice="Check KINITRO_EXECUTOR_MINER_HF_TOKEN.",
            )
        return _unreachable(f"{type(error).__name__}: {str(error)[:300]}")


def _unreachable(cause: str) -> InfrastructureError:
    return InfrastructureError(
        f"The hub can't be reached: {cause}.", code="hub_unreachable", advice="Check the network and HF_ENDPOINT."
    )


def _status(error: BaseException) -> int | None:
    """The HTTP status behind a failure, also where the SDK wraps it into 'not found locally'."""
    if isinstance(error, HfHubHTTPError):
        return int(error.response.status_code)
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return _status(error.__cause__)
    return None


def _checked_listing(info: ModelInfo, ref: PolicyRef, limits: HubLimits) -> dict[str, RepoSibling]:
    """The repo's files by path, before anything is downloaded."""
    if info.sha != ref.revision:
        raise PolicyError(
            f"The hub resolves {ref.revision} to another commit, {info.sha}: it is not a commit's own name.",
            code="snapshot_refused",
        )
    files = {file.rfilename: file for file in info.siblings or []}
    if not files or len(files) > limits.max_files:
        raise PolicyError(
            f"The repo holds {len(files)} files; between 1 and {limits.max_files} are taken.",
            code="snapshot_too_big" if files else "snapshot_missing",
        )
    for name in files:
        _check_name(name)
    _check_size(files, limits)
    return files


def _check_name(name: str) -> None:
    parts = name.split("/")
    unsafe = any(part in ("", ".", "..") or len(os.fsencode(part)) > _MAX_NAME_BYTES for part in parts)
    if unsafe or "\\" in name or not name.isprintable() or parts[0] == ".cache" or len(parts) > 32:
        raise PolicyError(f"The repo holds a file named {name[:200]!a}.", code="snapshot_refused")


def _check_size(files: dict[str, RepoSibling], limits: HubLimits) -> None:
    sizes = [file.size for file in files.values()]
    if None in sizes:
        raise InfrastructureError("The hub does not say how large the repo's files are.", code="hub_unreachable")
    total = sum(size or 0 for size in sizes)
    if total > limits.max_bytes:
        raise PolicyError(
            f"The repo holds {total / _GB:.1f} GB; at most {limits.max_bytes / _GB:g} GB are taken.",
            code="snapshot_too_big",
            advice="Remove what the policy does not need at run time.",
        )


def _check_files(folder: Path, expected: dict[str, RepoSibling]) -> None:
    """What came is exactly what was listed: names, sizes and, by the hub's own digests, contents."""
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    present = list_files(folder)
    wrong = set(present) ^ set(expected)
    wrong |= {name for name in set(present) & set(expected) if not _matches(present[name], expected[name])}
    if wrong:
        raise InfrastructureError(
            f"The download differs from the hub's listing at {min(wrong)!a}.", code="hub_damaged_download"
        )


def _matches(path: Path, file: RepoSibling) -> bool:
    if file.size is None or path.stat().st_size != file.size:
        return False
    if file.lfs is not None:
        return _digest(path, hashlib.sha256()) == file.lfs.sha256
    return file.blob_id is None or _digest(path, _git_blob(file.size)) == file.blob_id


def _git_blob(size: int) -> "hashlib._Hash":
    # Git's own object name; the hub gives no other digest for files outside LFS.
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def _digest(path: Path, digest: "hashlib._Hash") -> str:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


async def _in_daemon_thread(call: Callable[[], T]) -> T:
    """Runs a blocking call that can't be cancelled. Neither a deadline nor the end of the process waits for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T may itself be None

    def work() -> None:
        result, failure = None, None
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - handed over to whoever waits
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, daemon=True, name="hub").start()
    return await future

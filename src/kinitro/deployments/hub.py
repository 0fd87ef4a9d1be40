"""HuggingFace: the one file that imports its SDK. Everything a repo holds is hostile until checked.

Whose fault a failure is: what the hub itself says of the repo (missing, too big, odd files, private while our own
access works) is its owner's; a hub that is away, slow, rate limiting or refusing us is ours.
"""

import asyncio
import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, get_token, hf_hub_download, hf_hub_url, snapshot_download
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
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not marked as exported
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)
from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars
from pydantic import SecretStr

from kinitro.backends.threads import in_daemon_thread
from kinitro.deployments.download import DownloadRequest, HubFailure, HubSays, run_download
from kinitro.deployments.limits import HubLimits, arrived, too_slow
from kinitro.deployments.listing import OWNER_FILE, ListedFile, Listing, check_listing, check_room, difference, matches
from kinitro.errors import ConfigurationError, InfrastructureError, PolicyError
from kinitro.types import PolicyRef

T = TypeVar("T")

# httpx2 is the SDK's own HTTP library; its transport errors come through untranslated.
_FAILURES = (httpx2.HTTPError, LocalEntryNotFoundError, ConnectionError, XetDownloadError, HFValidationError)
_CALL_TIMEOUT_S = 20.0
_OWNER_FILE_BYTES = 4096
_SHORT_DEADLINE_S = 60.0
_ADDRESS = re.compile(r"[1-9A-HJ-NP-Za-km-z]{40,64}")


class HuggingFaceHub:
    """Reads from the hub at `HF_ENDPOINT` by exact revision. Without a token it asks anonymously."""

    def __init__(self, token: SecretStr | None = None, limits: HubLimits | None = None) -> None:
        self._token: str | bool = token.get_secret_value() if token and token.get_secret_value() else False
        self._limits = limits or HubLimits.chosen()
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=self._token)
        # An executor's log is no place for them; who publishes switches them on again.
        disable_progress_bars()

    async def fetch(self, ref: PolicyRef, destination: Path) -> None:
        """Downloads the repo at this revision into an existing empty folder and checks what came.

        Raises:
            PolicyError: `snapshot_missing`, `snapshot_private`, `snapshot_refused` or `snapshot_too_big`.
            InfrastructureError: `hub_unreachable`, `hub_rate_limited`, `hub_refused`, `hub_timeout`, `hub_download` or
                `hub_damaged_download`.
            OSError: the disk.
        """
        try:
            async with asyncio.timeout(self._limits.deadline_s):
                listing = await self._listing(ref)
                check_room(listing, destination)
                request = DownloadRequest(
                    ref.repo, ref.revision, str(destination), self._api.endpoint, self._token, self._limits.max_bytes
                )
                await self._ask(lambda: run_download(request))
        except TimeoutError:
            raise too_slow(ref.repo, await asyncio.to_thread(arrived, destination), self._limits) from None
        wrong = await in_daemon_thread(lambda: _what_differs(destination, listing))
        if wrong is not None:
            raise InfrastructureError(
                f"The download differs from the hub's listing at {wrong!a}.", code="hub_damaged_download"
            )

    async def confirm(self, ref: PolicyRef) -> None:
        """Asks whether the repo can still be had at this revision. Two small requests. Raises as `fetch` does."""
        try:
            async with asyncio.timeout(_SHORT_DEADLINE_S):
                name = next(iter((await self._listing(ref)).files))
                # A gated repo is listed to everyone.
                await self._ask(lambda: _in_thread(lambda: self._head(ref, name)))
        except TimeoutError:
            raise InfrastructureError(
                f"The hub did not say within {_SHORT_DEADLINE_S:.0f} s whether {ref.repo} is still there.",
                code="hub_timeout",
                advice="Is the way to the hub slow? See HF_ENDPOINT and the network.",
            ) from None

    async def read_owner(self, ref: PolicyRef) -> str | None:
        """The hotkey that `kinitro.json` names at this revision; None when there is no such file or it names none.

        Two small requests. Raises as `fetch` does.
        """
        try:
            async with asyncio.timeout(_SHORT_DEADLINE_S):
                file = (await self._listing(ref)).files.get(OWNER_FILE)
                if file is None or (file.size or 0) > _OWNER_FILE_BYTES:
                    return None
                return _named_hotkey(await self._ask(lambda: _in_thread(lambda: self._read(ref, file))))
        except TimeoutError:
            raise InfrastructureError(
                f"{OWNER_FILE} of {ref.repo} could not be read within {_SHORT_DEADLINE_S:.0f} s.", code="hub_timeout"
            ) from None

    async def check(self) -> None:
        """Raises `InfrastructureError` unless the hub answers us, as whom we ask."""
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                await _in_thread(self._prove_access)
        except TimeoutError:
            raise _unreachable("it did not answer in time") from None
        except HubFailure as failure:
            raise self._ours(failure) from failure

    async def require_read_only(self) -> None:
        """Raises `ConfigurationError` unless the hub says that our token can do nothing but read.

        `InfrastructureError` when the hub can't say.
        """
        who = await self._ask(lambda: _in_thread(lambda: self._api.whoami(token=self._token)))
        if not _only_reads(who.get("auth", {}).get("accessToken", {})):
            raise ConfigurationError(
                "The hub's token can write, and a pod that strangers' code runs in would get it.",
                advice="Make a read-only token at https://huggingface.co/settings/tokens (type Read, or fine-grained "
                "with read permissions only) and set KINITRO_EXECUTOR_MINER_HF_TOKEN to it, or unset it: public repos "
                "need none.",
            )

    def _prove_access(self) -> None:
        """One request and no retries, unlike the SDK's own listing."""
        path = "/api/whoami-v2" if self._token else "/api/models?limit=1"
        headers = build_hf_headers(token=self._token)
        hf_raise_for_status(get_session().get(self._api.endpoint + path, headers=headers, timeout=_CALL_TIMEOUT_S))

    async def _listing(self, ref: PolicyRef) -> Listing:
        listing = await self._ask(lambda: _in_thread(lambda: _list(self._api, ref)))
        check_listing(listing, ref, self._limits)
        return listing

    def _head(self, ref: PolicyRef, name: str) -> None:
        url = hf_hub_url(ref.repo, name, revision=ref.revision, endpoint=self._api.endpoint)
        self._api.get_hf_file_metadata(url=url, token=self._token, timeout=_CALL_TIMEOUT_S)

    def _read(self, ref: PolicyRef, file: ListedFile) -> bytes:
        with tempfile.TemporaryDirectory(prefix="kinitro-owner-") as folder:
            path = Path(
                hf_hub_download(
                    ref.repo,
                    OWNER_FILE,
                    revision=ref.revision,
                    local_dir=folder,
                    token=self._token,
                    endpoint=self._api.endpoint,
                    etag_timeout=_CALL_TIMEOUT_S,
                )
            )
            if not matches(path, file):
                raise LocalEntryNotFoundError(f"{OWNER_FILE} differs from the hub's listing")
            return path.read_bytes()

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """One call, tried again with growing pauses while the failure looks like the hub's passing trouble."""
        for attempt in range(self._limits.attempts):
            try:
                return await call()
            except HubFailure as failure:
                verdict = await self._verdict(failure)
                if not isinstance(verdict, InfrastructureError) or attempt + 1 == self._limits.attempts:
                    raise verdict from failure
            # Not for security: executors must not all come back at the same moment.
            await asyncio.sleep(self._limits.first_pause_s * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        raise AssertionError("attempts is at least 1")

    async def _verdict(self, failure: HubFailure) -> PolicyError | InfrastructureError:
        """Whose fault a failed call is."""
        if failure.says is HubSays.INVALID:
            return PolicyError(f"The hub's rules forbid this repo id: {failure.text}.", code="snapshot_refused")
        if failure.says is HubSays.WITHHELD or failure.status in (401, 403):
            # The same answer is given to a wrong token and for a private or missing repo: only a working access
            # elsewhere shows that it is the repo.
            try:
                await self.check()
            except InfrastructureError as ours:
                return ours
            return PolicyError(
                "The repo is missing, private or gated: the hub refuses it while our access works.",
                code="snapshot_private",
                advice="Make the repo public; operators read a private one only with a HuggingFace token that may "
                "(KINITRO_EXECUTOR_MINER_HF_TOKEN).",
            )
        if failure.says is HubSays.MISSING:
            return PolicyError("The hub has no such repo or revision.", code="snapshot_missing")
        return self._ours(failure)

    def _ours(self, failure: HubFailure) -> InfrastructureError:
        if failure.status == 429:
            return InfrastructureError(
                "The hub asks us to slow down (429).",
                code="hub_rate_limited",
                advice="Set KINITRO_EXECUTOR_MINER_HF_TOKEN for a higher limit.",
            )
        if failure.status in (401, 403):
            return InfrastructureError(
                f"The hub refuses our own access ({failure.status}).",
                code="hub_refused",
                advice="Check KINITRO_EXECUTOR_MINER_HF_TOKEN.",
            )
        return _unreachable(failure.text)


def download(request: DownloadRequest) -> None:
    """Downloads, blocking, for the process made for it. Raises the SDK's errors, which `as_failure` reads."""
    snapshot_download(
        request.repo,
        revision=request.revision,
        local_dir=request.destination,
        token=request.token,
        endpoint=request.endpoint,
        etag_timeout=_CALL_TIMEOUT_S,
        max_workers=4,
    )


def as_failure(error: Exception) -> HubFailure | None:
    """What an error of the SDK says; None when it is none of a failed call."""
    if not isinstance(error, _FAILURES):
        return None
    status = _status(error)
    says = HubSays.NOTHING
    if isinstance(error, HFValidationError):
        return HubFailure(HubSays.INVALID, None, str(error)[:300])
    if isinstance(error, (GatedRepoError, DisabledRepoError)):
        says = HubSays.WITHHELD
    elif isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError)) or status == 404:
        says = HubSays.MISSING
    return HubFailure(says, status, f"{type(error).__name__}: {str(error)[:300]}")


async def _in_thread(call: Callable[[], T]) -> T:
    """One short blocking call. Raises `HubFailure`."""
    try:
        return await in_daemon_thread(call)
    except _FAILURES as error:
        failure = as_failure(error)
        assert failure is not None
        raise failure from error


def saved_token() -> SecretStr | None:
    """What the SDK itself would use: `HF_TOKEN`, else the saved login."""
    found = get_token()
    return SecretStr(found) if found else None


class HubPublisher:
    """What a miner does to a repo of their own on the hub at `HF_ENDPOINT`.

    The token is the given one, else `HF_TOKEN`, else the saved login. Every failure is a `ConfigurationError` (the
    token, its rights, the repo's name) or an `InfrastructureError` (the hub).
    """

    def __init__(self, token: SecretStr | None = None) -> None:
        found = token.get_secret_value() if token else get_token()
        if not found:
            raise ConfigurationError("There is no token for the hub.", advice=_TOKEN_ADVICE)
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=found)
        self.reader = HuggingFaceHub(SecretStr(found))
        """Reads with the same token: repos of its owner too that are private."""
        enable_progress_bars()

    async def check_rights(self, repo: str) -> None:
        """Raises unless the hub answers, and its token may write to this repo as far as the hub tells."""
        who = await self._do(repo, self._api.whoami)
        mine = [who["name"], *(each["name"] for each in who.get("orgs") or ())]
        if repo.partition("/")[0].lower() not in [name.lower() for name in mine]:
            raise ConfigurationError(
                f"The hub's token is of {who['name']}, who can't write to {repo}.",
                advice=f"Give --repo {who['name']}/{repo.partition('/')[2]}, or set HF_TOKEN to one of its owner.",
            )
        if (who.get("auth") or {}).get("accessToken", {}).get("role") == "read":
            raise ConfigurationError("The hub's token can only read.", advice=_TOKEN_ADVICE)

    async def create(self, repo: str) -> None:
        """Makes the repo, private, unless it exists already; then its visibility stays as it is."""
        await self._do(repo, lambda: self._api.create_repo(repo, private=True, exist_ok=True))

    async def upload(self, folder: Path, repo: str) -> str:
        """Makes the repo's files those of the folder and returns the revision.

        Nothing is sent, and the revision is the present one, when they are the same already. A progress bar is shown.
        """
        commit = await self._do(
            repo,
            lambda: self._api.upload_folder(
                repo_id=repo, folder_path=folder, delete_patterns="*", commit_message="kinitro miner deploy"
            ),
        )
        return str(commit.oid)

    async def listing(self, ref: PolicyRef) -> Listing:
        """What the hub holds at this revision."""
        return await self._do(ref.repo, lambda: _list(self._api, ref))

    async def is_private(self, repo: str) -> bool:
        """Whether only its owner can read the repo."""
        return bool((await self._do(repo, lambda: self._api.model_info(repo, timeout=_CALL_TIMEOUT_S))).private)

    async def publish(self, repo: str) -> None:
        """Shows the repo to everyone."""
        await self._do(repo, lambda: self._api.update_repo_settings(repo, private=False))

    async def _do(self, what: str, call: Callable[[], T]) -> T:
        try:
            return await in_daemon_thread(call)
        except (*_FAILURES, RuntimeError) as error:
            # The SDK wraps what went wrong with one file in a RuntimeError.
            cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            raise _for_its_owner(what, cause) from error


_TOKEN_ADVICE = "Set HF_TOKEN to a token with write access, or run `hf auth login`."  # noqa: S105 - no token


def _only_reads(token: Mapping[str, Any]) -> bool:  # Any: the hub's own words, checked as they are read
    """Whether a token, as the hub describes it, has no permission but to read."""
    if token.get("role") != "fineGrained":
        return token.get("role") == "read"
    scopes = token.get("fineGrained") or {}
    permissions = [
        *(scopes.get("global") or []),
        *(one for s in scopes.get("scoped") or [] for one in s["permissions"]),
    ]
    return bool(permissions) and all(str(one).endswith(".read") for one in permissions)


def _for_its_owner(repo: str, error: BaseException) -> ConfigurationError | InfrastructureError:
    status = _status(error)
    if isinstance(error, HFValidationError):
        return ConfigurationError(
            f"The hub's rules forbid the repo id {repo}: {error}.", advice="Use --repo user/name."
        )
    if isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError)) or status == 404:
        return ConfigurationError(
            f"The hub has no {repo} at that revision that this token may see.", advice="Check --repo and --revision."
        )
    if status == 429 or status is None or status >= 500:
        return _unreachable(f"{type(error).__name__}: {str(error)[:300]}")
    problem, advice = {
        401: ("The hub does not accept the token.", _TOKEN_ADVICE),
        403: (
            f"The hub does not let this token change {repo}.",
            "The token needs write access, and the repo's owner must be you or an organisation of yours.",
        ),
    }.get(status, (f"The hub refuses this for {repo}: {str(error)[-300:].strip()}", "Check --repo."))
    return ConfigurationError(problem, advice=advice)


def _list(api: HfApi, ref: PolicyRef) -> Listing:
    info = api.model_info(ref.repo, revision=ref.revision, files_metadata=True, timeout=_CALL_TIMEOUT_S)
    return Listing(info.sha, {file.rfilename: _listed(file) for file in info.siblings or []})


def _listed(file: RepoSibling) -> ListedFile:
    return ListedFile(file.size, file.blob_id, file.lfs.sha256 if file.lfs else None)


def _what_differs(folder: Path, listing: Listing) -> str | None:
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the SDK's own notes
    return difference(folder, listing.files)


def _named_hotkey(content: bytes) -> str | None:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return None
    hotkey = fields.get("hotkey") if isinstance(fields, dict) else None
    return hotkey if isinstance(hotkey, str) and _ADDRESS.fullmatch(hotkey) else None


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

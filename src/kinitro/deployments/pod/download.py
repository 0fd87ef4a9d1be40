"""A snapshot from the hub with the standard library alone: lists, checks, downloads, checks again."""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from kinitro.backends.basilica.protocol import PodConfig
from kinitro.deployments.limits import HubLimits, arrived, too_slow
from kinitro.deployments.listing import ListedFile, Listing, check_listing, check_room, difference
from kinitro.errors import InfrastructureError
from kinitro.types import PolicyRef

T = TypeVar("T")

_TIMEOUT_S = 20.0
_ATTEMPTS = 4
_FIRST_PAUSE_S = 1.0
_MAX_LISTING_BYTES = 16 * 1024 * 1024
_BLOCK = 1 << 20
_PASSING = (408, 425, 429, 500, 502, 503, 504)


def download(config: PodConfig, token: str, folder: Path) -> None:
    """Puts the repo's files at this revision into an empty folder.

    Raises:
        PolicyError: what the hub lists is not accepted, or is too large for the time.
        InfrastructureError: `hub_refused`, `hub_rate_limited`, `hub_unreachable`, `hub_timeout` or
            `hub_damaged_download`.
    """
    ref = PolicyRef(str(config.repo), config.revision)
    limits = HubLimits(max_bytes=config.max_bytes, max_files=config.max_files, deadline_s=config.download_s)
    hub = _Hub(config.hub.rstrip("/"), token, time.monotonic() + config.download_s)
    try:
        listing = hub.listing(ref)
        check_listing(listing, ref, limits)
        check_room(listing, folder)
        for name, file in listing.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            hub.save(ref, name, file.size or 0, path)
    except _TooLate:
        raise too_slow(ref.repo, arrived(folder), limits) from None
    if (wrong := difference(folder, listing.files)) is not None:
        raise InfrastructureError(
            f"The download differs from the hub's listing at {wrong!a}.", code="hub_damaged_download"
        )


class _TooLate(Exception):
    """The time for the download is over."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows the hub to where it keeps files. The token stays with the hub, and nothing goes back to plain http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        before, after = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if before.scheme == "https" and after.scheme != "https":
            raise InfrastructureError("The hub redirects to an address without https.", code="hub_unreachable")
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and before.netloc != after.netloc:
            made.remove_header("Authorization")
        return made


class _Hub:
    """One hub; `end` is when everything must be here."""

    def __init__(self, address: str, token: str, end: float) -> None:
        self._address = address
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._end = end
        self._opener = urllib.request.build_opener(_Redirects())

    def listing(self, ref: PolicyRef) -> Listing:
        """What the hub says the repo holds."""
        path = f"/api/models/{ref.repo}/revision/{ref.revision}?blobs=true"
        return _listing(self._ask(path, lambda reply: json.loads(reply.read(_MAX_LISTING_BYTES))))

    def save(self, ref: PolicyRef, name: str, size: int, path: Path) -> None:
        """One file; never more than the size that was listed."""

        def copy(reply: http.client.HTTPResponse) -> None:
            left = size + 1
            with path.open("wb") as file:
                while left > 0 and (block := reply.read1(min(_BLOCK, left))):
                    self._raise_if_late()
                    left -= file.write(block)

        self._ask(f"/{ref.repo}/resolve/{ref.revision}/{urllib.parse.quote(name)}", copy)

    def _ask(self, path: str, use: Callable[[http.client.HTTPResponse], T]) -> T:
        """One request, again after growing pauses while the failure looks like passing trouble."""
        for attempt in range(_ATTEMPTS):
            self._raise_if_late()
            try:
                # The address was checked where it was set: it is http or https.
                request = urllib.request.Request(self._address + path, headers=self._headers)  # noqa: S310 - see above
                with self._opener.open(request, timeout=_TIMEOUT_S) as reply:
                    return use(reply)
            except urllib.error.HTTPError as error:
                if error.code not in _PASSING or attempt + 1 == _ATTEMPTS:
                    raise _refused(path, error.code) from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                if attempt + 1 == _ATTEMPTS:
                    raise _unreachable(f"{type(error).__name__}: {error}") from error
            time.sleep(_FIRST_PAUSE_S * 2**attempt)
        raise AssertionError("there is at least one attempt")

    def _raise_if_late(self) -> None:
        if time.monotonic() > self._end:
            raise _TooLate


def _refused(path: str, status: int) -> InfrastructureError:
    # Whether the hub refuses the repo or this pod is for the executor to find out: it asks the hub itself.
    code = "hub_rate_limited" if status == 429 else "hub_refused"
    return InfrastructureError(f"The hub answers the pod's request for {path} with {status}.", code=code)


def _unreachable(cause: str) -> InfrastructureError:
    return InfrastructureError(f"The pod can't reach the hub: {cause}.", code="hub_unreachable")


def _listing(document: Mapping[str, Any]) -> Listing:  # Any: checked as it is read
    if not isinstance(document, dict) or not isinstance(document.get("siblings"), list):
        raise _unreachable("its listing is none")
    return Listing(document.get("sha"), {str(file["rfilename"]): _listed(file) for file in document["siblings"]})


def _listed(file: Mapping[str, Any]) -> ListedFile:  # Any: as above
    lfs = file.get("lfs")
    return ListedFile(file.get("size"), file.get("blobId"), lfs.get("sha256") if isinstance(lfs, dict) else None)

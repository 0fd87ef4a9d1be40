"""Where executors keep what is too bulky for the database: a directory, or an S3-compatible store.

The one file that imports obstore. Its settings are the usual ones: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_REGION`, `AWS_ENDPOINT_URL` and so on.
"""

import asyncio
import os
import re
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kinitro.errors import ConfigurationError, InfrastructureError, how_to_install

SCHEMES = ("file", "s3")
_NAME = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""Below a place. No part begins with a dot, and nothing is escaped."""
_DEADLINE_S = 30.0
_RETRIES = {"max_retries": 2, "retry_timeout": timedelta(seconds=_DEADLINE_S)}


class Archive:
    """Files under one URL: `file:///directory` or `s3://bucket/prefix`.

    Raises `ConfigurationError` for another kind of URL, or when obstore is missing.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        if _parts(url).scheme == "s3":
            _obstore()

    async def put(self, name: str, data: bytes) -> str:
        """Writes a file, over one of the same name, and returns its URL. `InfrastructureError` when it can't."""
        url = f"{self._url}/{name}"
        async with _translated(url, "written"):
            if _parts(url).scheme == "file":
                await asyncio.to_thread(_write, _path(url), data)
            else:
                store, key = _store(url)
                await _obstore().put_async(store, key, data)
        return url

    async def read(self, url: str, most_bytes: int) -> bytes:
        """The file of a URL that `put` returned.

        `InfrastructureError` when it can't be read, is larger, or is not in this place: whoever named it may be a
        stranger, who must not choose what this machine opens, or asks for with its user's keys.
        """
        name = url.removeprefix(f"{self._url}/")
        if name == url or not _NAME.fullmatch(name):
            raise InfrastructureError(f"{url!a} is not in {self._url}, where records are looked for.", code="archive")
        async with _translated(url, "read"):
            if _parts(url).scheme == "file":
                data, size = await asyncio.to_thread(_read, _path(url), most_bytes)
            else:
                store, key = _store(url)
                found = await _obstore().get_async(store, key)
                size = int(found.meta["size"])
                data = bytes(await found.bytes_async()) if size <= most_bytes else b""
        if size > most_bytes:
            raise InfrastructureError(f"{url} is larger than {most_bytes} bytes.", code="archive")
        return data


@asynccontextmanager
async def _translated(url: str, done: str) -> AsyncIterator[None]:
    failures: tuple[type[Exception], ...] = (OSError,)
    if _parts(url).scheme == "s3":
        failures = (OSError, _obstore().exceptions.BaseError)
    try:
        async with asyncio.timeout(_DEADLINE_S):
            yield
    except TimeoutError as error:
        raise InfrastructureError(f"{url} could not be {done} within {_DEADLINE_S:g} s.", code="archive") from error
    except failures as error:
        reason = str(error).partition("\n")[0][:300]
        raise InfrastructureError(f"{url} can't be {done}: {reason}.", code="archive") from error


def _parts(url: str) -> Any:  # urllib's result type is private
    parts = urlsplit(url)
    is_place = parts.path.startswith("/") and not parts.netloc if parts.scheme == "file" else bool(parts.netloc)
    if parts.scheme not in SCHEMES or not is_place:
        raise ConfigurationError(
            f"{url!r} is no place to keep records.", advice="Write it as file:///directory or s3://bucket/prefix."
        )
    return parts


def _path(url: str) -> Path:
    return Path(unquote(_parts(url).path))


def _write(path: Path, data: bytes) -> None:
    """By one rename: nobody reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(data)
            file.close()
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _read(path: Path, most_bytes: int) -> tuple[bytes, int]:
    # A pipe without a writer would be waited for.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        return file.read(most_bytes), status.st_size


def _store(url: str) -> tuple[Any, str]:  # obstore's store, and the key in it
    parts = _parts(url)
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    store = _obstore().store.from_url(
        f"s3://{parts.netloc}", client_options={"allow_http": plain}, retry_config=_RETRIES
    )
    return store, parts.path.strip("/")


def _obstore() -> Any:  # a module, and optional
    try:
        import obstore  # noqa: PLC0415 - optional
        import obstore.exceptions  # noqa: PLC0415 - optional
        import obstore.store  # noqa: PLC0415 - optional
    except ModuleNotFoundError:
        raise ConfigurationError(
            "s3:// places need the Python package 'obstore', which is not installed.",
            advice=how_to_install("records"),
        ) from None
    return obstore

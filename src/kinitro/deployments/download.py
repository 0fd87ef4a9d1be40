"""Downloads in a process of their own: the hub's SDK blocks, and what blocks in a thread can't be stopped.

Everything goes through pipes, the token too, so that no list of processes shows it. The process ends when it is done,
when its download is given up, or when we are gone, however that came about: it reads standard input until that ends.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from kinitro.errors import InfrastructureError


class HubSays(StrEnum):
    """What a failed call tells about the repo, if anything."""

    INVALID = "invalid"
    """Its name is against the hub's rules."""
    WITHHELD = "withheld"
    """It is gated or disabled."""
    MISSING = "missing"
    NOTHING = "nothing"
    """The hub, or the way to it, is in trouble."""


class HubFailure(Exception):
    """A failed call, in words that can cross a pipe. `status` is the HTTP status, where there was one."""

    def __init__(self, says: HubSays, status: int | None, text: str) -> None:
        super().__init__(text)
        self.says = says
        self.status = status
        self.text = text


@dataclass(frozen=True)
class DownloadRequest:
    """One repo at one revision into one existing folder. `token` is False for an anonymous request.

    No file may grow beyond `max_bytes`, whatever the hub said of its size.
    """

    repo: str
    revision: str
    destination: str
    endpoint: str
    token: str | bool
    max_bytes: int


async def run_download(request: DownloadRequest) -> None:
    """Downloads in a new process; cancelling ends it at once.

    Raises:
        HubFailure: the SDK's own failure.
        OSError: the disk's.
        InfrastructureError: `hub_download`, the process itself broke.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "kinitro.deployments.download"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(os.environ),
        # A Ctrl-C is for us.
        start_new_session=True,
    )
    try:
        answer = await _converse(process, request)
        # It ends by itself now. A signal that meets its end takes its exit code away from asyncio (cpython#88050).
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.shield(process.wait())
    _raise_what_it_says(answer, process.returncode)


async def _converse(process: asyncio.subprocess.Process, request: DownloadRequest) -> bytes:
    """Its answer. Standard input stays open: its end would tell the process that we are gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
    return await process.stdout.readline()


def _raise_what_it_says(answer: bytes, code: int | None) -> None:
    try:
        said = json.loads(answer)
    except ValueError:
        raise InfrastructureError(
            f"The process that downloads from the hub ended with exit code {code} and without an answer.",
            code="hub_download",
            advice="Is this machine short of memory? See `dmesg`.",
        ) from None
    if "errno" in said:
        raise OSError(said["errno"], said["text"])
    if "says" in said:
        raise HubFailure(HubSays(said["says"]), said["status"], said["text"])
    if "bug" in said:
        raise InfrastructureError(f"The hub's SDK failed: {said['bug']}", code="hub_download")


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Ours without settings and secrets of ours: proxies, certificates and the SDK's own settings stay."""
    kept = {name: value for name, value in ours.items() if not name.startswith("KINITRO_") and "TOKEN" not in name}
    # A fresh process of the SDK would first ask the hub for the names of AI agents, to count itself among them.
    return kept | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


# The process


def main() -> None:
    """Downloads what one line of standard input asks for, and answers with one object."""
    request = DownloadRequest(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_FSIZE, (request.max_bytes, request.max_bytes))
    answer = _attempt(request)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    # Not through the interpreter's end: the SDK's threads may still wait for the network.
    os._exit(0)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _attempt(request: DownloadRequest) -> dict[str, object]:
    from kinitro.deployments.hub import as_failure, download  # noqa: PLC0415 - slow, and only for this process

    try:
        download(request)
    except Exception as error:  # noqa: BLE001 - the SDK raises many kinds; whose fault each is, is decided by the parent
        if (failure := as_failure(error)) is not None:
            return {"says": failure.says, "status": failure.status, "text": failure.text}
        if isinstance(error, OSError) and error.errno is not None:
            return {"errno": error.errno, "text": error.strerror}
        return {"bug": f"{type(error).__name__}: {str(error)[:1000]}"}
    return {}


if __name__ == "__main__":
    main()

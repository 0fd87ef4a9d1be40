"""The pod's two lives: the first prepares with the token at hand, the second serves and never had one.

Between them is one exec: what the first knew is gone from memory and environment before a line of the policy runs.
"""

import json
import os
import secrets
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from kinitro.backends.basilica.protocol import CONFIG_VARIABLE, PORT, SECRET_VARIABLE, TOKEN_VARIABLE, PodConfig
from kinitro.deployments.pod.front import Orders, Served, run_front
from kinitro.deployments.pod.prepare import Prepared, prepare
from kinitro.errors import InfrastructureError, PolicyError

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES")
_MAX_MESSAGE = 4000
_OURS = (CONFIG_VARIABLE, SECRET_VARIABLE, TOKEN_VARIABLE)


def main() -> None:
    """Prepares and becomes the front; or, with a descriptor as its argument, is the front."""
    if len(sys.argv) > 1:
        with os.fdopen(int(sys.argv[1])) as pipe:
            told = Orders.read(pipe.read())
        run_front(told)
        return
    archive = Path(sys.argv[0])
    given = {name: os.environ.pop(name, "") for name in _OURS}
    config = PodConfig.read(given[CONFIG_VARIABLE])
    orders = Orders(
        secret=given[SECRET_VARIABLE],
        port=int(os.environ.get("PORT", PORT)),
        boot=secrets.token_hex(8),
        served=_attempt(config, given[TOKEN_VARIABLE], archive),
    )
    _become_front(archive, orders)


def _attempt(config: PodConfig, token: str, archive: Path) -> Served:
    """What the front is to serve: a policy, or whose fault it is that there is none."""
    try:
        work = Path(tempfile.mkdtemp(prefix="kinitro-pod-"))
        prepared = prepare(config, token, archive, work)
        return Served(config.command, str(prepared.folder), _environment(config, prepared, work))
    except PolicyError as error:
        return Served(fault="policy", code=error.code, message=str(error)[:_MAX_MESSAGE])
    except InfrastructureError as error:
        return Served(fault="infrastructure", code=error.code, message=str(error)[:_MAX_MESSAGE])
    except OSError as error:
        return Served(fault="infrastructure", code="pod_disk", message=f"The pod's disk can't be used: {error}.")


def _environment(config: PodConfig, prepared: Prepared, work: Path) -> dict[str, str]:
    """All that the policy's environment holds."""
    home = work / "home"
    home.mkdir()
    own = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    own |= {"HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"}
    own |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if prepared.packages is not None:
        own["PYTHONPATH"] = str(prepared.packages)
    return own | dict(config.environment)


def _become_front(archive: Path, orders: Orders) -> None:
    read, write = os.pipe()
    os.set_inheritable(read, True)
    with os.fdopen(write, "w") as pipe:
        pipe.write(json.dumps(asdict(orders)))  # less than a pipe holds: a message is at most 4000 characters
    clean = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    os.execve(sys.executable, [sys.executable, "-I", str(archive), str(read)], clean)  # noqa: S606 - no shell is wanted

"""What an executor and the pod of a policy say to each other. The standard library alone: this travels into pods."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

CONFIG_VARIABLE = "KINITRO_POD"
SECRET_VARIABLE = "KINITRO_POD_SECRET"  # noqa: S105 - a variable's name
TOKEN_VARIABLE = "KINITRO_POD_HUB_TOKEN"  # noqa: S105 - a variable's name
STATE_PATH = "/_kinitro/state"
PORT = 8000
"""Where a pod listens; a stand-in that has no pods says another one in `PORT`."""


@dataclass(frozen=True)
class PodConfig:
    """What a pod has to do. Without `repo` the policy's folder came with the program."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    repo: str | None = None
    revision: str = ""
    digest: str = ""
    hub: str = ""
    max_bytes: int = 0
    max_files: int = 0
    download_s: float = 240.0

    def text(self) -> str:
        """As the pod's environment holds it."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> "PodConfig":
        """The same, read in the pod."""
        fields = json.loads(text)
        return cls(**fields | {"command": tuple(fields["command"])})


@dataclass(frozen=True)
class PodState:
    """What a pod says of itself. `boot` is another one whenever its container was started again.

    With `fault` (`policy` or `infrastructure`) there is no policy, and `code` and `message` say why; else `exit_code`
    is None while it runs.
    """

    boot: str
    exit_code: int | None = None
    fault: str | None = None
    code: str = ""
    message: str = ""

    def body(self) -> bytes:
        """As it is sent."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, body: bytes) -> "PodState":
        """The same, read by the executor. `ValueError` when it is anything else: a policy may have a hand in it."""
        document: Any = json.loads(body)  # Any: checked field by field
        if not isinstance(document, dict):
            raise ValueError("not an object")  # noqa: TRY004 - one error for all that is not a state
        texts = {name: str(document.get(name) or "")[:4000] for name in ("boot", "code", "message")}
        exit_code, fault = document.get("exit_code"), document.get("fault")
        if not texts["boot"] or not (exit_code is None or isinstance(exit_code, int)):
            raise ValueError("not a pod's state")
        if fault not in (None, "policy", "infrastructure"):
            raise ValueError("no such fault")
        return cls(exit_code=exit_code, fault=fault, **texts)

"""Runs a policy folder in this terminal."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from kinitro.errors import ConfigurationError

_OURS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "BASILICA_API_TOKEN", "BT_WALLET_PASSWORD")


def serve_folder(folder: Path, host: str, port: int) -> NoReturn:
    """Becomes the policy's server. It gets this environment without tokens: it has none when it is evaluated either.

    Raises `ConfigurationError` when the folder holds no server.py.
    """
    server = folder.resolve() / "server.py"
    if not server.is_file():
        raise ConfigurationError(
            f"{folder} is no policy folder: it holds no server.py.",
            advice="Make one with `kinitro miner init PATH`, or give the path of one.",
        )
    kept = {name: value for name, value in os.environ.items() if name not in _OURS and not name.startswith("KINITRO_")}
    sys.stdout.flush()
    os.chdir(server.parent)
    os.execve(  # noqa: S606 - the same terminal, signals and exit code
        sys.executable,
        [sys.executable, "server.py", "--host", host, "--port", str(port)],
        kept | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )

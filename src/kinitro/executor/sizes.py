"""Memory sizes as people write them: Docker's way (`8g`) and Kubernetes' (`8Gi`)."""

import re

from kinitro.errors import ConfigurationError

_DOCKER = re.compile(r"\d+(?:\.\d+)?[bkmg]?b?", re.IGNORECASE)
_KUBERNETES = re.compile(r"\d+(?:\.\d+)?[KMG]i")


def parse_size(text: str) -> int:
    """Bytes of a size in either way; Docker's letters mean powers of 1024 too.

    Raises `ConfigurationError` for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]i?)?b?", text.strip().lower())
    if match is None:
        raise ConfigurationError(f"{text!r} is not a size.", advice="Write it as 4Gi or 4g.")
    power = {None: 0, "k": 1, "m": 2, "g": 3}[match[2][0] if match[2] else None]
    return int(float(match[1]) * 1024**power)


def docker_size(text: str, variable: str) -> int:
    """Bytes of a size in Docker's way. `ConfigurationError` for any other, with the right spelling."""
    size = parse_size(text)
    if not _DOCKER.fullmatch(text.strip()):
        raise _misspelt(text, variable, "Docker", re.sub("i?b?$", "", text.strip(), flags=re.IGNORECASE).lower())
    return size


def kubernetes_size(text: str, variable: str) -> int:
    """Bytes of a size in Kubernetes' way. `ConfigurationError` for any other, with the right spelling."""
    size = parse_size(text)
    if not _KUBERNETES.fullmatch(text.strip()):
        raise _misspelt(text, variable, "Basilica", _in_kubernetes(size))
    return size


def _in_kubernetes(size: int) -> str:
    power, unit = next(
        (power, unit) for power, unit in ((3, "Gi"), (2, "Mi"), (1, "Ki"), (0, "")) if size >= 1024**power
    )
    return f"{size / 1024**power:g}{unit}"


def _misspelt(text: str, variable: str, mode: str, right: str) -> ConfigurationError:
    return ConfigurationError(
        f"{variable} is {text!r}, which is not how sizes are written in {mode} mode.",
        advice=f"Set {variable}={right}.",
    )

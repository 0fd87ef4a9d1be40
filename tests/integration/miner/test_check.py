import os
import sys
from pathlib import Path

import pytest

from kinitro.environments import find
from kinitro.errors import ConfigurationError
from kinitro.miner.check import CheckPlan, check_policy
from kinitro.miner.findings import Report, Verdict

from .conftest import RIGHT


def to_fix(report: Report) -> dict[str, str]:
    return {finding.subject: finding.text for finding in report.of(Verdict.FIX)}


async def test_a_good_policy_is_ready_and_every_subject_was_looked_at(folder: Path, plan) -> None:
    told = []
    report = await check_policy(folder, plan(), told.append)
    assert report.ready
    assert tuple(told) == report.findings
    assert [finding.subject for finding in report.of(Verdict.GOOD)] == [
        "files", "requirements", "start", "protocol", "latency", "determinism", "episodes apart",
        "line/reach-v0", "line/reach-v0", "time budget",
    ]  # fmt: skip
    assert "solved in" in report.findings[-2].text
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize(
    ("policy", "subject", "words"),
    [
        ("raise RuntimeError('weights are missing')", "start", "weights are missing"),
        (RIGHT.replace("1.0, 0, 0", "1.0, 0"), "protocol", "ee_twist"),
        (RIGHT.replace("return {", "import os; os._exit(3)\n        return {"), "protocol", "/act"),
        (RIGHT.replace("return None", "raise KeyError('goal')"), "protocol", "KeyError"),
        ("import random\n" + RIGHT.replace("[1.0,", "[random.random(),"), "determinism", "draw all random numbers"),
        (
            RIGHT.replace("return None", "self.steps = 0").replace(
                "return {", "self.steps += 1\n        return {"
            ).replace("[1.0,", "[self.steps / 999,"),
            "episodes apart",
            "keep what belongs to an episode",
        ),
    ],
    ids=["crash at import", "malformed", "dies", "raises", "random", "shared state"],
)  # fmt: skip
async def test_what_is_wrong_with_a_policy_is_named(folder: Path, plan, policy: str, subject: str, words: str) -> None:
    (folder / "policy.py").write_text(policy)
    report = await check_policy(folder, plan(episodes=0))
    assert not report.ready
    assert words in to_fix(report)[subject]


async def test_a_task_has_an_id_as_the_protocol_says(folder: Path, plan) -> None:
    (folder / "policy.py").write_text(
        "import uuid\n" + RIGHT.replace("return None", "assert str(uuid.UUID(task['task_id'])) == task['task_id']")
    )
    assert to_fix(await check_policy(folder, plan(episodes=1))) == {}


async def test_a_slow_policy_is_told_how_slow_it_is(folder: Path, plan) -> None:
    (folder / "policy.py").write_text("import time\n" + RIGHT.replace("return {", "time.sleep(0.1)\n        return {"))
    report = await check_policy(folder, plan(action_timeout=0.05, time_budget_seconds=1.0, episodes=1))
    problems = to_fix(report)
    assert "50 ms are allowed" in problems["latency"]
    assert "did not answer" in problems["line/reach-v0"]


async def test_a_cycle_that_would_not_fit_the_time_budget_is_said(folder: Path, plan) -> None:
    report = await check_policy(folder, plan(time_budget_seconds=0.001, episodes=1))
    assert "too_slow" in to_fix(report)["time budget"]


async def test_a_server_that_never_gets_healthy_is_not_waited_for_longer_than_an_evaluator_does(
    folder: Path, plan
) -> None:
    (folder / "server.py").write_text("import time\ntime.sleep(60)\n")
    report = await check_policy(folder, plan(warmup_timeout=0.5))
    assert to_fix(report)["start"].startswith("Miner deployment not ready after 0.5 s")


async def test_a_simulator_that_is_missing_here_is_no_fault_of_the_policy(folder: Path, plan) -> None:
    report = await check_policy(folder, plan(server=(sys.executable, "-c", "raise SystemExit('no simulator')")))
    assert report.ready
    assert "no simulator" in report.of(Verdict.SKIPPED)[0].text


async def test_an_environment_that_does_not_run_here_is_said_once(folder: Path, monkeypatch) -> None:
    monkeypatch.delenv("KINITRO_PROCTHOR_UNITY", raising=False)
    report = await check_policy(folder, CheckPlan((find("procthor/v0"),), 3, 1))
    assert [finding.subject for finding in report.of(Verdict.SKIPPED)] == ["procthor/v0"]
    assert "time budget" not in {finding.subject for finding in report.findings}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "server.py").unlink(), "no server.py"),
        (lambda folder: (folder / "policy.py").unlink(), "no policy.py"),
        (lambda folder: (folder / "weights.bin").symlink_to("/etc/passwd"), "links or special files"),
        (lambda folder: os.mkfifo(folder / "pipe"), "links or special files"),
        (lambda folder: (folder / "a\nb").write_text(""), "names that no evaluator takes"),
        (lambda folder: (folder / ".env").write_text(""), "looks like a secret: .env"),
        (lambda folder: (folder / "notes.txt").write_text("hf_" + "a" * 34), "looks like a secret: notes.txt"),
        (lambda folder: (folder / "big.bin").write_bytes(b"0" * 2_000_000), "at most 0.001 GB"),
    ],
)
async def test_a_folder_that_may_not_be_uploaded_is_not_even_started(
    folder: Path, plan, monkeypatch: pytest.MonkeyPatch, spoil, words: str
) -> None:
    monkeypatch.setenv("KINITRO_MAX_REPO_SIZE_GB", "0.001")
    spoil(folder)
    report = await check_policy(folder, plan())
    assert words in to_fix(report)["files"]
    assert {finding.subject for finding in report.findings} == {"files", "requirements"}


async def test_a_package_that_is_wanted_and_not_locked_is_named(folder: Path, plan) -> None:
    (folder / "requirements.in").write_text(
        "# mine\nnumpy\nTorch_Vision[x]>=1  # pictures\nhere-too\n--index-url https://x\n"
    )
    (folder / "requirements.txt").write_text(f"here-too==1.0 --hash=sha256:{'0' * 64}\n")
    found = to_fix(await check_policy(folder, plan(episodes=0)))["requirements"]
    assert found.startswith("requirements.in names Torch_Vision, and requirements.txt does not: lock it with")
    assert "--lock" in found


@pytest.mark.parametrize("locked", [True, False])
async def test_a_package_that_this_python_lacks_is_named_without_a_traceback(folder: Path, plan, locked) -> None:
    (folder / "policy.py").write_text("import nosuch_package.part\n" + RIGHT)
    if locked:
        (folder / "requirements.txt").write_text(f"nosuch-package==1.0 --hash=sha256:{'0' * 64}\n")
    report = await check_policy(folder, plan(episodes=0))
    (start,) = [finding for finding in report.findings if finding.subject == "start"]
    assert start.verdict is (Verdict.SKIPPED if locked else Verdict.FIX)
    assert start.text.startswith("the policy imports nosuch_package, which is not installed here: install it in")
    assert sys.executable in start.text
    assert "Traceback" not in start.text


async def test_requirements_that_would_be_refused_are_named_by_line(folder: Path, plan) -> None:
    (folder / "requirements.txt").write_text("# mine\ntorch\n")
    report = await check_policy(folder, plan(episodes=0))
    assert "line 2, 'torch', does not say exactly which version" in to_fix(report)["requirements"]


async def test_what_is_not_uploaded_is_not_there_when_it_is_checked(folder: Path, plan) -> None:
    (folder / ".cache").mkdir()
    (folder / ".cache" / "weights").write_text("")
    (folder / "policy.py").write_text("open('.cache/weights')\n" + RIGHT)
    assert "FileNotFoundError" in to_fix(await check_policy(folder, plan(episodes=0)))["start"]


async def test_a_folder_that_does_not_exist_is_said_to_be_missing(tmp_path: Path, plan) -> None:
    with pytest.raises(ConfigurationError, match="no policy folder"):
        await check_policy(tmp_path / "nowhere", plan())

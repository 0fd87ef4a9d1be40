"""A demo's cycle, run again by a fresh process."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """What `kinitro demo --home` left. Its name is short enough for a socket below it."""
    with tempfile.TemporaryDirectory(prefix="kr-") as made:
        home = Path(made) / "home"
        demo = kinitro("demo", "--episodes", "1", "--home", str(home))
        assert demo.returncode == 0, demo.stdout + demo.stderr
        yield home


def kinitro(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "kinitro", *arguments],
        env=os.environ | {"COLUMNS": "100"} | variables,
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )


def replay(home: Path, *arguments: str, export: Path | None = None) -> "subprocess.CompletedProcess[str]":
    file = export or home / "cycle-1.json"
    return kinitro("replay", *arguments, "--export", str(file), "--eval-mode", "process", KINITRO_HOME=str(home))


def tampered(home: Path, **changes: object) -> Path:
    """The export with changes to what uid 2, the one that does one task, is said to have done there."""
    export = json.loads((home / "cycle-1.json").read_text())
    (episode,) = [one for one in export["episodes"] if (one["uid"], one["env_id"]) == (2, "metaworld/drawer-close-v3")]
    episode.update(changes)
    file = home / "tampered.json"
    file.write_text(json.dumps(export))
    return file


ONE = ("--miner", "2", "--environment", "metaworld/drawer-close-v3", "--index", "0")


@pytest.mark.timeout(480)
def test_every_episode_of_a_demos_cycle_comes_out_the_same_in_a_fresh_process(home) -> None:
    done = replay(home, "--all")
    assert "16 of 16 episodes came out the same." in done.stdout, done.stdout + done.stderr
    assert len(re.findall(r"^same .*compared: digests$", done.stdout, re.MULTILINE)) == 16
    assert done.returncode == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"success": False, "score": 0.0}, "Recorded is failure"),
        ({"trace_digest": "0" * 64}, "The trace digest was 000"),
        ({"seed": 5}, "different"),
        ({"tree_digest": "0" * 64}, "The policy's files are not those"),
    ],
    ids=["verdict", "digest", "seed", "files"],
)
def test_a_tampered_export_is_found(home, changes, words) -> None:
    done = replay(home, *ONE, export=tampered(home, **changes))
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("different")
    assert words in done.stdout


@pytest.mark.timeout(240)
def test_another_policy_under_the_same_revision_is_found(home) -> None:
    """Its files and their record in the snapshot cache are exchanged for those of another one."""
    export = json.loads((home / "cycle-1.json").read_text())
    place = {
        miner["uid"]: home / "snapshots" / miner["repo"].replace("/", "--") / miner["revision"]
        for miner in export["miners"]
    }
    saved = place[2].rename(home / "saved")
    record, other = place[2].with_name(f"{place[2].name}.complete"), place[1].with_name(f"{place[1].name}.complete")
    text = record.read_text()
    try:
        place[2].symlink_to(place[1])
        record.write_text(other.read_text())
        done = replay(home, *ONE)
    finally:
        place[2].unlink()
        saved.rename(place[2])
        record.write_text(text)
    assert done.returncode == 1
    assert "The policy's files are not those that were evaluated" in done.stdout


@pytest.mark.timeout(240)
def test_a_video_shows_both_cameras_the_steps_and_the_verdict(home, tmp_path) -> None:
    av = pytest.importorskip("av")
    file = tmp_path / "drawer.mp4"
    done = replay(home, *ONE, "--video", str(file), "--json")
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)
    assert told["answer"] == "same"
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 672, 400)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    moving, rest = divmod(told["replayed"]["timesteps"], 2)
    assert len(frames) == 1 + moving + rest + 60
    left, right, bar = frames[0][:336, :336], frames[0][:336, 336:], frames[0][336:]
    assert min(part.std() for part in (left, right, bar)) > 10
    assert abs(left.astype(int) - right).mean() > 20
    assert abs(frames[0].astype(int) - frames[-61])[:336].mean() > 2, "the arm has moved"
    verdict = frames[-1][336:, 500:]
    assert ((verdict[..., 1] > 120) & (verdict[..., 0] < 90)).sum() > 500, "a success is green"
    assert not list(tmp_path.glob(".*")), "no half video is left"


def test_a_video_needs_the_name_of_one(home, tmp_path) -> None:
    done = replay(home, *ONE, "--video", str(tmp_path / "drawer.gif"))
    assert done.returncode == 1
    assert "does not end in .mp4" in done.stderr
    assert done.stdout == "", "no episode was run for it"

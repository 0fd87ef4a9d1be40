"""The bundled miners: who takes part in the demo, and their policy folders as a miner would upload them."""

import shutil
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path


@dataclass(frozen=True)
class DemoMiner:
    """One registered hotkey. `policy` names a folder under `demo/policies`; `repo` is what it commits."""

    name: str
    policy: str
    repo: str
    about: str


MINERS = (
    DemoMiner("idle", "noop", "demo/idle", "does nothing"),
    DemoMiner("dice", "random_actions", "demo/dice", "moves at random"),
    DemoMiner("one-trick", "one_trick", "demo/one-trick", "good at one task"),
    DemoMiner("handy", "handy", "demo/handy", "good at several tasks, some by sight"),
    DemoMiner("copycat", "handy", "demo/handy", "commits what handy committed, later"),
)
"""In the order in which they commit; the position is the uid."""

README = """---
library_name: kinitro
pipeline_tag: robotics
---
# {repo}
A policy that comes with `kinitro demo`: {about}.
"""


def write_policy_folder(miner: DemoMiner, folder: Path) -> None:
    """Writes the policy as a miner would upload it: its modules, server.py, requirements.txt and README.md."""
    folder.mkdir(parents=True)
    package = files("kinitro")
    with as_file(package / "demo" / "policies" / miner.policy) as policy:
        for file in sorted(policy.glob("*.py")):
            shutil.copyfile(file, folder / file.name)
    with as_file(package / "policy" / "server.py") as server:
        shutil.copyfile(server, folder / "server.py")
    (folder / "requirements.txt").write_text("")
    (folder / "README.md").write_text(README.format(repo=miner.repo, about=miner.about))

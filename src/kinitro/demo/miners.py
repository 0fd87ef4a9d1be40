"""The bundled miners: who takes part in the demo, and their policy folders as a miner would upload them."""

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from kinitro.miner.folder import write_policy_folder


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


def write_folder(miner: DemoMiner, folder: Path) -> None:
    """Writes the policy as a miner would upload it."""
    with as_file(files("kinitro") / "demo" / "policies" / miner.policy) as modules:
        about = f"A policy that comes with `kinitro demo`: {miner.about}."
        write_policy_folder(folder, modules, title=miner.repo, about=about)

"""Two runs of one episode side by side: are they the same, and if not, where do they part and by whose doing?"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from operator import add

import numpy as np

from kinitro.environments.trace import Steps
from kinitro.schemas import EpisodeConditions, EpisodeOut, Simulation
from kinitro.types import ErrorKind

LATE = frozenset({"timeout", "episode_timeout", "not_ready"})
"""Codes of a lateness, which a replay on another machine can't show."""
_DIVERGED = "diverged"
_SHOWN = 3


class Answer(StrEnum):
    """What a replay came to."""

    SAME = "same"
    DIFFERENT = "different"
    UNDECIDED = "undecided"
    """It can't be told here: the reason is among the findings."""


@dataclass(frozen=True)
class Run:
    """One run of an episode: what it came to, and what from.

    `steps` is None when they are not known, and `damage` says why when they ought to be.
    """

    success: bool
    timesteps: int
    total_reward: float
    error: str | None
    error_kind: ErrorKind | None
    error_code: str | None
    trace_digest: str | None
    tree_digest: str | None
    image_digest: str | None
    conditions: EpisodeConditions
    steps: Steps | None
    damage: str | None = None

    @property
    def verdict(self) -> str:
        """In a word or two."""
        return "success" if self.success else f"failure ({self.error_code or self.error_kind or 'no success'})"


@dataclass(frozen=True)
class Comparison:
    """The answer, what it rests on, and sentences for a person. `first_step` counts from 1."""

    answer: Answer
    compared: str
    findings: tuple[str, ...] = ()
    first_step: int | None = None


def recorded_run(
    episode: EpisodeOut, conditions: EpisodeConditions, steps: Steps | None, damage: str | None = None
) -> Run:
    """The run that the record is of."""
    found = episode.episode
    return Run(
        success=bool(found.success),
        timesteps=found.timesteps or 0,
        total_reward=found.total_reward or 0.0,
        error=found.error,
        error_kind=found.error_kind,
        error_code=found.error_code,
        trace_digest=found.trace_digest,
        tree_digest=found.tree_digest,
        image_digest=found.image_digest,
        conditions=conditions,
        steps=steps,
        damage=damage,
    )


def contradictions(run: Run) -> list[str]:
    """What in a record does not fit together: no run gives that, so somebody changed it."""
    damage = [] if run.damage is None else [run.damage]
    return damage if run.steps is None else [*damage, *_contradictions(run, run.steps)]


def _contradictions(run: Run, steps: Steps) -> Iterator[str]:
    if run.trace_digest != steps.digest():
        yield "its trace digest is not that of its steps"
    if run.total_reward != reduce(add, steps.rewards.tolist(), 0.0):
        yield "its total reward is not the sum of its rewards"
    if run.timesteps != len(steps) + (run.error_code == _DIVERGED):
        yield f"it says {run.timesteps} steps and has {len(steps)}"
    if run.error_code != "died" and run.success != bool(steps.successes.any()):
        yield f"it says {run.verdict}, and its steps say {'success' if steps.successes.any() else 'none'}"


def compare(recorded: Run, replayed: Run) -> Comparison:
    """Whether a replay came out as recorded."""
    if wrong := contradictions(recorded):
        return Comparison(Answer.DIFFERENT, "the record with itself", tuple(f"The record: {one}." for one in wrong))
    if recorded.tree_digest is not None and replayed.tree_digest not in (None, recorded.tree_digest):
        return Comparison(Answer.DIFFERENT, "the policies' files", (_other_files(recorded, replayed),))
    if (reason := _not_the_same_task(recorded, replayed)) is not None:
        return Comparison(Answer.UNDECIDED, "nothing", (reason,))
    if (reason := _incomparable(recorded, replayed)) is not None:
        return _compare_verdicts(recorded, replayed, reason)
    return _compare_digests(recorded, replayed)


def _other_files(recorded: Run, replayed: Run) -> str:
    return (
        f"The policy's files are not those that were evaluated: their tree digest is {replayed.tree_digest}, recorded "
        f"is {recorded.tree_digest}."
    )


def _not_the_same_task(recorded: Run, replayed: Run) -> str | None:
    there, here = recorded.conditions.environment_version, replayed.conditions.environment_version
    if there is None or here is None or there == here:
        return None
    by = recorded.conditions.simulation
    return (
        f"The environment's version was {there}, here it is {here}: the seed is of another world. "
        f"Install Kinitro {by.kinitro if by else 'of that time'}, or use the image that ran."
    )


def _incomparable(recorded: Run, replayed: Run) -> str | None:
    """Why digests can't be compared; None when they can."""
    there, here = recorded.conditions.simulation, replayed.conditions.simulation
    if recorded.image_digest != replayed.image_digest:
        return f"the image was {recorded.image_digest or 'none'}, here it is {replayed.image_digest or 'none'}"
    if there is None or here is None:
        return "the record does not say what the simulator ran on"
    if there.architecture != here.architecture:
        return f"the architecture was {there.architecture}, here it is {here.architecture}"
    if recorded.image_digest is None and (changes := _other_versions(there, here)):
        return f"there was no image to pin the versions, and they differ: {'; '.join(changes)}"
    return None


def _other_versions(there: Simulation, here: Simulation) -> list[str]:
    names = (there.stack.keys() | here.stack.keys()) - {"processor"}
    if not (there.images and here.images):
        names -= {"opengl"}  # who drew nothing did not need it
    return [
        f"{name} {there.stack.get(name, 'none')}, here {here.stack.get(name, 'none')}"
        for name in sorted(names)
        if there.stack.get(name) != here.stack.get(name)
    ]


def _compare_verdicts(recorded: Run, replayed: Run, reason: str) -> Comparison:
    note = f"Only verdicts were compared, not digests: {reason}."
    if (recorded.success, recorded.error_kind) == (replayed.success, replayed.error_kind):
        return Comparison(Answer.SAME, "verdicts", (note,))
    apart = f"Recorded is {recorded.verdict} after {recorded.timesteps} steps, here it was {_ending(replayed)}."
    return Comparison(Answer.DIFFERENT, "verdicts", (note, apart))


def _compare_digests(recorded: Run, replayed: Run) -> Comparison:
    same_end = (recorded.success, recorded.error_kind) == (replayed.success, replayed.error_kind)
    if recorded.trace_digest == replayed.trace_digest and same_end:
        return Comparison(Answer.SAME, "digests")
    step, findings = _first_difference(recorded, replayed)
    if not same_end:
        findings.append(f"Recorded is {_ending(recorded)}; here it was {_ending(replayed)}.")
    was_late = recorded.error_code in LATE and replayed.error_code != recorded.error_code
    if was_late and (step is None or step > recorded.timesteps):
        findings.append("How late a policy is depends on the machine; all steps until then are the same.")
        return Comparison(Answer.UNDECIDED, "digests", tuple(findings), step)
    findings += _changed_processor(recorded, replayed)
    return Comparison(Answer.DIFFERENT, "digests", tuple(findings), step)


def _ending(run: Run) -> str:
    return f"{run.verdict} after {run.timesteps} steps"


def _changed_processor(recorded: Run, replayed: Run) -> list[str]:
    """Numeric libraries choose their instructions by it, so it may be the cause."""
    simulations = (recorded.conditions.simulation, replayed.conditions.simulation)
    there, here = (one.stack.get("processor") if one else None for one in simulations)
    return [] if there == here else [f"Note: it ran on {there or 'an unknown processor'}, here on {here}."]


def _first_difference(recorded: Run, replayed: Run) -> tuple[int | None, list[str]]:
    """The first step, from 1, at which they part, and what is different there."""
    one, other = recorded.steps, replayed.steps
    if one is None or other is None:
        digests = f"The trace digest was {recorded.trace_digest}, here it is {replayed.trace_digest}."
        return None, [digests, "The record has no steps, so where they part can't be told."]
    for index in range(min(len(one), len(other))):
        if (what := _difference_at(one, other, index)) is not None:
            return index + 1, [f"Step {index + 1}: {what}"]
    if len(one) != len(other):
        common = min(len(one), len(other))
        lengths = f"recorded {len(one)}, here {len(other)}"
        return common + 1, [f"The first {common} steps are the same; then one ends and the other goes on ({lengths})."]
    if one.state_sha256 != other.state_sha256:
        return len(one), ["All steps are the same, but the simulator's final state is not."]
    return None, []


def _difference_at(one: Steps, other: Steps, index: int) -> str | None:
    if one.seen[index] != other.seen[index]:
        return "the policy was shown something else, after the same actions: another simulator or renderer."
    if changes := list(_other_commands(one, other, index)):
        shown = ", ".join(changes[:_SHOWN]) + (", ..." if len(changes) > _SHOWN else "")
        return (
            f"shown the same, the policy did something else: {shown}. Either it does not repeat itself under its seed, "
            "or the record was changed."
        )
    if one.rewards[index] != other.rewards[index]:
        was, earned = float(one.rewards[index]), float(other.rewards[index])
        return f"the same action earned reward {earned!r}, recorded is {was!r}."
    if one.successes[index] != other.successes[index]:
        return f"the same action was {'' if other.successes[index] else 'not '}the success here, unlike in the record."
    return None


def _other_commands(one: Steps, other: Steps, index: int) -> Iterator[str]:
    there, here = one.action(index), other.action(index)
    for name in sorted(there.continuous.keys() | here.continuous.keys()):
        old, new = there.continuous.get(name), here.continuous.get(name)
        if old is None or new is None or old.shape != new.shape:
            yield f"{name} {'no command' if new is None else new.tolist()} instead of {_shown(old)}"
            continue
        for part in np.flatnonzero(old != new):
            yield f"{name}[{part}] {float(new[part])!r} instead of {float(old[part])!r}"
    for name in sorted(there.discrete.keys() | here.discrete.keys()):
        if there.discrete.get(name) != here.discrete.get(name):
            yield f"{name} {here.discrete.get(name, 'no command')} instead of {there.discrete.get(name, 'no command')}"


def _shown(values: "np.ndarray | None") -> object:
    return "no command" if values is None else values.tolist()

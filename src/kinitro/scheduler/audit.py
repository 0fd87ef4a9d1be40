"""What the runs of one audit come to, and when contradictions are more than bad luck (docs/decisions/0019). Pure."""

import hmac
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

from kinitro.scoring import log_evidence
from kinitro.storage import AuditRun
from kinitro.types import AuditState

QUARANTINE_ALPHA = 0.01
"""Chance that an honest executor is ever quarantined by policies that behave differently from run to run."""


@dataclass(frozen=True)
class Ask:
    """The next run that is needed: by anyone but `barred`, or by `only`."""

    barred: tuple[str, ...] = ()
    only: str | None = None


@dataclass(frozen=True)
class Finding:
    """How an audit ends. `is_unsteady`: runs that had to be the same were not, so the policy's digests say nothing."""

    state: AuditState
    contradicted: str | None = None
    is_unsteady: bool = False


def is_drawn(salt: bytes, hotkey: str, env_id: str, index: int, rate: float) -> bool:
    """Whether an episode's verdict is checked: a share `rate` of all, known to nobody who does not know the salt."""
    drawn = hmac.new(salt, b"audit\0" + f"{hotkey}\0{env_id}\0{index}".encode(), sha256).digest()
    return int.from_bytes(drawn[:8], "big") < rate * 2**64


def judge(runs: Sequence[AuditRun], able: Collection[str], *, is_steady: bool) -> Ask | Finding | None:
    """The next step of an audit, by its runs in their order, the first of them the verdict that is checked.

    `able` are the executors that could run it now; None when the run that is needed must wait for one. A policy that
    is not `is_steady` is compared by its verdicts alone.
    """
    ask = _next(runs, able, is_steady)
    if isinstance(ask, Finding) or ask.only in able:
        return ask
    return ask if ask.only is None and set(able) - set(ask.barred) else None


def _next(runs: Sequence[AuditRun], able: Collection[str], is_steady: bool) -> Ask | Finding:
    first = runs[0]
    if len(runs) == 1:
        return Ask(barred=(first.executor_id,))
    other = runs[1]
    if _same(first, other, is_steady):
        return Finding(AuditState.AGREED)
    if _contradicts_itself(runs, is_steady):
        return Finding(AuditState.VOID, is_unsteady=True)
    parties = (first.executor_id, other.executor_id)
    thirds = [run for run in runs if run.executor_id not in parties]
    if len(thirds) == 1:
        return Ask(only=thirds[0].executor_id)
    return _decide(first, other, thirds[0], is_steady) if thirds else _ask_further(runs, parties, able)


def _ask_further(runs: Sequence[AuditRun], parties: tuple[str, str], able: Collection[str]) -> Ask:
    """A third if there is one; until then both again, alike, which shows a policy that is not steady."""
    if set(able) <= set(parties):
        ran = [run.executor_id for run in runs]
        for party in parties:
            if ran.count(party) == 1:
                return Ask(only=party)
    return Ask(barred=parties)


def _decide(first: AuditRun, other: AuditRun, third: AuditRun, is_steady: bool) -> Finding:
    sides_with_first, sides_with_other = _same(third, first, is_steady), _same(third, other, is_steady)
    if sides_with_first and not sides_with_other:
        return Finding(AuditState.CONTRADICTED, contradicted=other.executor_id)
    if sides_with_other and not sides_with_first:
        return Finding(AuditState.CONTRADICTED, contradicted=first.executor_id)
    return Finding(AuditState.VOID, is_unsteady=not sides_with_first)


def _contradicts_itself(runs: Sequence[AuditRun], is_steady: bool) -> bool:
    firsts: dict[str, AuditRun] = {}
    return any(not _same(firsts.setdefault(run.executor_id, run), run, is_steady) for run in runs)


def _same(one: AuditRun, two: AuditRun, is_steady: bool) -> bool:
    """Whether two runs of one episode came to the same, as far as they can be compared."""
    if one.success != two.success:
        return False
    if one.tree_digest and two.tree_digest and one.tree_digest != two.tree_digest:
        return False
    if not is_steady or not _comparable(one, two):
        return True
    return one.trace_digest == two.trace_digest


def _comparable(one: AuditRun, two: AuditRun) -> bool:
    """Traces are compared within one image and simulation, and not where a policy's failure cut one short."""
    same_image = one.image_digest is not None and one.image_digest == two.image_digest
    same_simulation = one.simulation is not None and one.simulation == two.simulation
    has_both = bool(one.trace_digest and two.trace_digest) and not (one.is_error or two.is_error)
    return same_image and same_simulation and has_both


def is_beyond_luck(lost: int, won: int) -> bool:
    """Whether an executor lost more of its disputes than an honest one ever would, but once in 1 / QUARANTINE_ALPHA.

    `lost` and `won` count miners, by the first dispute over each: with honest executors a dispute is a fair coin,
    whatever policies do, so a bettor against the executor has this wealth with at most that chance, ever (Ville).
    """
    return bool(log_evidence(lost, 0, won, 0.0) >= math.log(1 / QUARANTINE_ALPHA))

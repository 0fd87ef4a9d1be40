"""Takes audits from a verdict to what follows: further runs, and what becomes of an executor that is contradicted."""

from sqlalchemy.ext.asyncio import AsyncConnection

from kinitro.logs import get_logger
from kinitro.scheduler.audit import Ask, Finding, is_beyond_luck, judge
from kinitro.scheduler.files import doubtful
from kinitro.storage import (
    OpenAudit,
    ask_for_run,
    audits_to_judge,
    close_audit,
    disputes,
    file_claims,
    lapse_audits,
    live_executors,
    lock_cycle,
    lock_executors,
    mark_unsteady,
    open_audits,
    open_audits_of_claims,
    quarantine,
    runs_under_way,
    set_notice,
)
from kinitro.types import AuditState

log = get_logger("scheduler")
NOTICE = "audits"


class Auditor:
    """Works on the connection that holds the scheduler's lock, inside the caller's transactions."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def advance(self, cycle_id: int) -> bool:
        """Takes each open audit of the cycle as far as it goes now; true while runs of some are under way.

        The first thing in its transaction: the cycle's row is locked before executors' and tasks' rows.
        """
        await lock_cycle(self._connection, cycle_id)
        await open_audits(self._connection, cycle_id)
        if doubted := doubtful(await file_claims(self._connection, cycle_id)):
            await open_audits_of_claims(self._connection, cycle_id, doubted)
        steps = await self._next_steps(cycle_id)
        losers = {step.contradicted for _, step in steps if isinstance(step, Finding) and step.contradicted}
        await lock_executors(self._connection, losers)
        for audit, step in steps:
            if isinstance(step, Ask):
                await ask_for_run(self._connection, audit.id, barred=step.barred, only=step.only)
            else:
                await self._close(cycle_id, audit, step)
        return await runs_under_way(self._connection, cycle_id) > 0

    async def _next_steps(self, cycle_id: int) -> list[tuple[OpenAudit, Ask | Finding]]:
        audits = await audits_to_judge(self._connection, cycle_id)
        live = await live_executors(self._connection) if audits else []
        steps: list[tuple[OpenAudit, Ask | Finding]] = []
        for audit in audits:
            able = {one.executor_id for one in live if one.may_run(audit.env_id, audit.hotkey)}
            step = judge(audit.runs, able, is_steady=audit.is_steady)
            if audit.gave_up and isinstance(step, Ask):
                step = Finding(AuditState.LAPSED if len(audit.runs) == 1 else AuditState.UNDECIDED)
            if step is not None:
                steps.append((audit, step))
        return steps

    async def _close(self, cycle_id: int, audit: OpenAudit, finding: Finding) -> None:
        if not await close_audit(self._connection, audit.id, finding.state, finding.contradicted):
            return  # ended meanwhile, with an executor whose word no longer counts
        if finding.is_unsteady and await mark_unsteady(self._connection, audit.id):
            log.warning("policy_unsteady", miner_uid=audit.uid, env_id=audit.env_id)
        if finding.contradicted is not None:
            await self._keep_apart(cycle_id, audit, finding.contradicted)

    async def _keep_apart(self, cycle_id: int, audit: OpenAudit, executor_id: str) -> None:
        """The miner's episodes go to others; and when that is beyond luck, everybody's."""
        witnesses = sorted({run.executor_id for run in audit.runs} - {executor_id})
        reason = f"{' and '.join(witnesses)} contradicted it on {audit.env_id} of uid {audit.uid}."
        withdrawn = await quarantine(self._connection, cycle_id, executor_id, audit.hotkey, reason)
        log.warning(
            "executor_contradicted",
            executor_id=executor_id,
            miner_uid=audit.uid,
            env_id=audit.env_id,
            witnesses=witnesses,
            verdicts_withdrawn=withdrawn or 0,
        )
        lost, won = await disputes(self._connection, executor_id)
        if not is_beyond_luck(lost, won):
            return
        reason = f"others contradicted it over {lost} miners, and over {won} it was right: luck does not do that."
        withdrawn = await quarantine(self._connection, cycle_id, executor_id, None, reason)
        if withdrawn is not None:
            log.error("executor_quarantined", executor_id=executor_id, reason=reason, verdicts_withdrawn=withdrawn)

    async def lapse(self, cycle_id: int) -> None:
        """Ends the audits that are still open, and says how many, so that the cycle can close."""
        ended = await lapse_audits(self._connection, cycle_id)
        lapsed, undecided = ended[AuditState.LAPSED], ended[AuditState.UNDECIDED]
        if lapsed or undecided:
            log.info("audits_lapsed", cycle_id=cycle_id, lapsed=lapsed, undecided=undecided)
        await set_notice(self._connection, NOTICE, _undecided(cycle_id, undecided) if undecided else None)


def _undecided(cycle_id: int, count: int) -> str:
    return (
        f"In cycle {cycle_id} two executors contradicted each other on {count} episodes, and there was no third to "
        "decide. One of them, or its machine, is not to be trusted: start a third executor."
    )

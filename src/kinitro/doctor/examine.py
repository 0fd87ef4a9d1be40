"""Runs every check at the same time, each under its own deadline."""

import asyncio
from collections.abc import Sequence

from kinitro.doctor.findings import Check, Finding, Report, Role, Section, failed
from kinitro.doctor.plan import Subjects, checks_of
from kinitro.errors import KinitroError


async def examine(subjects: Subjects, roles: Sequence[Role] | None = None) -> Report:
    """Looks at `roles`, or without them at every role that something is configured for.

    The machine itself is always looked at. Takes about as long as the slowest check.
    """
    wanted = {Role.MACHINE, *(subjects.configured if roles is None else roles)}
    every = [(role, check) for role in Role if role in wanted for check in checks_of(role, subjects)]
    found = await asyncio.gather(*(_look(check) for _, check in every))
    of_role: dict[Role, list[Finding]] = {}
    for (role, _), findings in zip(every, found, strict=True):
        of_role.setdefault(role, []).extend(findings)
    return Report(
        tuple(Section(role, tuple(findings)) for role, findings in of_role.items()),
        tuple(role for role in Role if role not in wanted) if roles is None else (),
    )


async def _look(check: Check) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(check.deadline_s):
            return await check.run()
    except KinitroError as error:
        return [failed(check.subject, error.message, error.advice)]
    except TimeoutError:
        text = f"This could not be found out within {check.deadline_s:g} s."
        return [failed(check.subject, text, "Try again when the machine is less busy.")]
    except OSError as error:
        return [failed(check.subject, f"{error.strerror or error}.", None)]

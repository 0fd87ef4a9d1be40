"""Whom to believe about policies' files, and what is worth another executor's look (docs/decisions/0026). Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from itertools import groupby

from kinitro.storage import FileClaim

_CHECKED_CLAIMS = 2
"""Of two things that one executor says of one miner's files at least one is false: checking two is enough."""
_SHOWN, _SHOWN_DIGITS = 3, 24


def agreed_digest(claims: Iterable[FileClaim], executors: Collection[str]) -> str | None:
    """What one policy's files are: when nobody says otherwise, and two executors do or there is only the one to ask.

    `executors` are those who could be asked.
    """
    claims = list(claims)
    digests, witnesses = {claim.tree_digest for claim in claims}, {claim.executor_id for claim in claims}
    if len(digests) != 1 or (len(witnesses) == 1 and set(executors) - witnesses):
        return None
    return digests.pop()


def agreed_files(claims: Iterable[FileClaim], executors: Collection[str]) -> dict[int, str]:
    """The tree digest of each miner of a cycle of which it is agreed."""
    agreed = {uid: agreed_digest(said, executors) for uid, said in _by_uid(claims).items()}
    return {uid: digest for uid, digest in agreed.items() if digest is not None}


def doubtful(claims: Collection[FileClaim]) -> list[FileClaim]:
    """The claims that a run by another executor should check: where they differ, and where one alone makes a copy."""
    by_uid, shared = _by_uid(claims), _shared(claims)
    wanted = [
        claim
        for said in by_uid.values()
        for claim in said
        if len({each.tree_digest for each in said}) > 1
        or (claim.tree_digest in shared and len({each.executor_id for each in said}) == 1)
    ]
    grouped = groupby(sorted(wanted), key=lambda claim: (claim.uid, claim.executor_id))
    return [claim for _, own in grouped for claim in list(own)[:_CHECKED_CLAIMS]]


def file_notice(cycle_id: int, claims: Collection[FileClaim], agreed: Mapping[int, str]) -> str | None:
    """What operators should know about files of which it is not agreed whose they are; None when there are none."""
    by_uid, shared = _by_uid(claims), _shared(claims)
    differing = [uid for uid, said in by_uid.items() if len({claim.tree_digest for claim in said}) > 1]
    alone = [
        uid
        for uid, said in by_uid.items()
        if uid not in agreed and uid not in differing and any(claim.tree_digest in shared for claim in said)
    ]
    if not differing and not alone:
        return None
    listed = [f"uid {uid}'s are {_said(by_uid[uid])}" for uid in differing]
    listed += [f"uid {uid} is said to share files with another by {by_uid[uid][0].executor_id} alone" for uid in alone]
    more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return (
        f"In cycle {cycle_id} executors did not agree on policies' files: {'; '.join(listed[:_SHOWN])}{more}. "
        "Nobody is taken for a copy by that. One of them, or what the hub gave it, is not to be trusted: look at "
        "`kinitro executors list`, and see that three executors run."
    )


def _said(claims: Iterable[FileClaim]) -> str:
    return ", ".join(f"{claim.tree_digest[:_SHOWN_DIGITS]} by {claim.executor_id}" for claim in list(claims)[:_SHOWN])


def _by_uid(claims: Iterable[FileClaim]) -> dict[int, list[FileClaim]]:
    grouped: defaultdict[int, list[FileClaim]] = defaultdict(list)
    for claim in sorted(claims):
        grouped[claim.uid].append(claim)
    return dict(grouped)


def _shared(claims: Iterable[FileClaim]) -> set[str]:
    """The digests that are claimed of more than one miner."""
    owners: defaultdict[str, set[int]] = defaultdict(set)
    for claim in claims:
        owners[claim.tree_digest].add(claim.uid)
    return {digest for digest, uids in owners.items() if len(uids) > 1}

"""From a scored cycle to what is stored and published. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from kinitro.chain import Subnet
from kinitro.environments.base import STAND_IN_SUFFIX
from kinitro.scheduler.planning import copy_reason
from kinitro.schemas import CycleExport
from kinitro.scoring import CycleScore, pack_outcomes, score_cycle
from kinitro.scoring.check import Outcome, check_images, files_said
from kinitro.storage import Closing, OpenCycle, PublishedWeights, ScoreRow
from kinitro.types import MinerState

MAX_FAILED_SHARE = 0.05
"""A cycle of which more tasks than this got no verdict is not scored."""


def find_copies(export: CycleExport, first_seen: Mapping[int, int], files: Mapping[int, str]) -> dict[int, int]:
    """Miners whose snapshot turned out equal to that of one seen before them: uid to the earlier one's uid.

    `first_seen` maps uid to the block its policy was first seen at, ties by uid. Not by place: one who got its place
    late, say because it was a copy then, may still have been there first. `files` are the tree digests that are
    agreed; one counts where the export says the same, so that everybody can see why somebody is a copy.
    """
    said = files_said(export)
    digest_of = {uid: digest for uid, digest in files.items() if said.get(uid) == {digest}}
    evaluated = [miner for miner in export.miners if miner.state is MinerState.EVALUATED and miner.place is not None]
    owner_of: dict[str, int] = {}
    copies: dict[int, int] = {}
    for miner in sorted(evaluated, key=lambda miner: (first_seen[miner.uid], miner.uid)):
        digest = digest_of.get(miner.uid)
        if digest is None:
            continue
        owner = owner_of.setdefault(digest, miner.uid)
        if owner != miner.uid:
            copies[miner.uid] = owner
    return copies


def without_copies(export: CycleExport, copies: Mapping[int, int]) -> CycleExport:
    """The export as it is scored and published, with late-found copies marked. Copies have no place."""
    miners = [
        miner.model_copy(update={"state": MinerState.COPY, "place": None, "reason": copy_reason(copies[miner.uid])})
        if miner.uid in copies
        else miner
        for miner in export.miners
    ]
    return export.model_copy(update={"miners": miners})


def close(
    cycle: OpenCycle,
    export: CycleExport,
    subnet: Subnet,
    *,
    first_seen: Mapping[int, int],
    files: Mapping[int, str],
    weights_lifetime_blocks: int,
) -> Closing:
    """Scores a finished cycle through the same function as `kinitro score`. `subnet` is as of publishing.

    `first_seen` maps each evaluated uid to the first block its policy was seen at, `files` to the tree digest that is
    agreed of. Raises `InvalidExport`.
    """
    copies = find_copies(export, first_seen, files)
    final = without_copies(export, copies)
    score = score_cycle(final)
    hotkeys = {miner.uid: miner.hotkey for miner in final.miners}
    closing = Closing(
        scores=_score_rows(score, hotkeys),
        pareto_frontier=score.pareto_frontier,
        prizes=score.prizes,
        points=score.points,
        bits=pack_outcomes(final),
        copies={uid: copy_reason(owner) for uid, owner in copies.items()},
        weights=_published(cycle, score, hotkeys, subnet, weights_lifetime_blocks),
    )
    unscored = unscored_reason(cycle.plan.environments)
    return replace(closing, weights=None, withheld=unscored) if unscored else closing


def unscored_reason(environments: Mapping[str, str]) -> str | None:
    """Why a cycle of these environments (id to version) pays nobody: one is a stand-in for tests. None when it pays."""
    stand_ins = [env_id for env_id, version in environments.items() if version.endswith(STAND_IN_SUFFIX)]
    return f"it is unscored, for {', '.join(stand_ins)} ran on a stand-in for tests" if stand_ins else None


def image_notice(export: CycleExport) -> str | None:
    """What operators should know about the images a cycle ran from; None when it was one for each environment."""
    found = check_images(export)
    if found.outcome is not Outcome.NOTED:
        return None
    return (
        f"In cycle {export.cycle_id} {found.detail}. Weights are paid all the same, but audits compare traces within "
        "one image only, else verdicts alone. Two builds are two images: build on one machine and take that to the "
        "others, with `docker save IMAGE | ssh HOST docker load` or through a registry (docs/docker.md)."
    )


def _score_rows(score: CycleScore, hotkeys: Mapping[int, str]) -> list[ScoreRow]:
    return [
        ScoreRow(
            uid=uid,
            hotkey=hotkeys[uid],
            env_id=env_id,
            success_rate=record.success_rate,
            mean_reward=record.mean_reward,
            episodes_completed=record.completed,
            episodes_failed=record.failed,
            wilson_low=record.low,
            wilson_high=record.high,
        )
        for uid, records in score.records.items()
        for env_id, record in records.items()
    ]


def _published(
    cycle: OpenCycle, score: CycleScore, miners: Mapping[int, str], subnet: Subnet, lifetime_blocks: int
) -> PublishedWeights | None:
    if not score.weights:
        return None
    # A burn uid is no miner of the cycle: its hotkey is the subnet's present one.
    hotkeys = {neuron.uid: neuron.hotkey for neuron in subnet.neurons} | dict(miners)
    return PublishedWeights(
        block_number=subnet.block,
        expires_at_block=subnet.block + lifetime_blocks,
        weights=score.weights,
        u16_uids=score.weights_u16.uids,
        u16_values=score.weights_u16.values,
        hotkeys={uid: hotkeys[uid] for uid in score.weights if uid in hotkeys},
        notes={
            "points": {str(uid): points for uid, points in score.points.items()},
            "prizes": dict(score.prizes),
            "rule": cycle.plan.rule.model_dump(mode="json"),
        },
    )

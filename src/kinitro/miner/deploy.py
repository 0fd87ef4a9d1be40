"""From a folder to a policy that the chain names: upload, commit, read back, make public.

The order is chosen so that whatever breaks off leaves nothing worse than before: nothing is sent for a hotkey that
may not commit, the chain never names what the hub does not hold, and strangers see a new policy only when the chain
says whose it is.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kinitro.chain import Chain, DevLedger, Signer, format_commitment
from kinitro.deployments.hub import HubPublisher
from kinitro.deployments.limits import HubLimits
from kinitro.deployments.listing import OWNER_FILE, check_listing, difference
from kinitro.errors import ChainError, ConfigurationError, NotRegistered, PolicyError
from kinitro.miner.commitments import Commit, Commitment, commit_policy, read_commitment, read_commitments
from kinitro.miner.files import find_files, shown_size, stage
from kinitro.types import PolicyRef

_MADE_BY_HUB = ".gitattributes"


@dataclass(frozen=True)
class DeployPlan:
    """What is deployed where. `revision` None: the folder is uploaded; else what the repo holds there is taken."""

    repo: str
    folder: Path
    netuid: int
    revision: str | None = None
    keep_private: bool = False

    def __post_init__(self) -> None:
        """Refuses a repo id or revision that could not be committed, with `ConfigurationError`."""
        format_commitment(PolicyRef(self.repo, self.revision or "0" * 40))


@dataclass(frozen=True)
class Deployed:
    """What came of it. `behind` counts the miners that stand before this one in line."""

    ref: PolicyRef
    commit: Commit
    behind: int
    private: bool


async def preview(plan: DeployPlan, chain: Chain, hotkey: str, tell: Callable[[str], None]) -> None:
    """Says what `deploy` would do; sends nothing."""
    behind = await _standing(chain, plan.netuid, hotkey)
    if plan.revision is None:
        found = find_files(plan.folder)
        tell(f"Would upload {len(found.sizes)} files ({shown_size(found.total)}) and {OWNER_FILE} to {plan.repo}.")
    shown = format_commitment(PolicyRef(plan.repo, plan.revision or "0" * 40))
    tell(f"Would commit {shown}" + ("" if plan.revision else " (the revision comes from the upload)"))
    tell(f"as {hotkey} on netuid {plan.netuid}, behind {behind} other miners. Nothing was sent.")


async def deploy(
    plan: DeployPlan, chain: Chain, signer: Signer, hub: HubPublisher, tell: Callable[[str], None]
) -> Deployed:
    """Deploys; `tell` hears of each step. Done again with nothing changed, it sends nothing.

    Raises:
        ConfigurationError: the hub's token, the repo or the revision is not right.
        InfrastructureError: the hub failed.
        ChainError: as `commit_policy`. What was uploaded stays; the advice says how to go on from there.
    """
    hotkey = signer.ss58_address
    behind = await _standing(chain, plan.netuid, hotkey)
    revision = plan.revision or await _upload(plan, hub, hotkey, tell)
    ref = PolicyRef(plan.repo, revision)
    await _check_held(ref, hub, hotkey, dev=isinstance(chain, DevLedger))
    try:
        commit = await _commit(plan, chain, signer, ref, behind, tell)
    except ChainError as error:
        error.advice = f"{error.advice or ''} Then go on with --skip-upload --revision {revision}.".strip()
        raise
    private = await _show(plan, hub, tell)
    return Deployed(ref, commit, behind, private)


async def _standing(chain: Chain, netuid: int, hotkey: str) -> int:
    """How many others have committed a policy. `NotRegistered` when this hotkey may not, but on the dev ledger."""
    if not isinstance(chain, DevLedger):
        await read_commitment(chain, netuid, hotkey)
    return sum(each.ref is not None and each.hotkey != hotkey for each in await _commitments(chain, netuid))


async def _commitments(chain: Chain, netuid: int) -> list[Commitment]:
    """All of the subnet; none where the dev ledger is about to make it."""
    try:
        return await read_commitments(chain, netuid)
    except NotRegistered:
        if isinstance(chain, DevLedger):
            return []
        raise


async def _upload(plan: DeployPlan, hub: HubPublisher, hotkey: str, tell: Callable[[str], None]) -> str:
    with tempfile.TemporaryDirectory(prefix="kinitro-deploy-") as scratch:
        folder = Path(scratch)
        found = stage(plan.folder, folder)
        limits = HubLimits.chosen()
        if found.total > limits.max_bytes:
            raise ConfigurationError(
                f"{plan.folder} holds {shown_size(found.total)}; at most {shown_size(limits.max_bytes)} are taken.",
                advice="Remove what the policy does not need at run time (KINITRO_MAX_REPO_SIZE_GB).",
            )
        # Never through a link into the miner's own folder.
        (folder / OWNER_FILE).unlink(missing_ok=True)
        (folder / OWNER_FILE).write_text(json.dumps({"hotkey": hotkey}) + "\n")
        tell(f"Uploading {len(found.sizes)} files ({shown_size(found.total)}) to {plan.repo} ...")
        await hub.create(plan.repo)
        revision = await hub.upload(folder, plan.repo)
        await _check_uploaded(folder, PolicyRef(plan.repo, revision), hub)
    tell(f"Uploaded: revision {revision}")
    return revision


async def _check_uploaded(folder: Path, ref: PolicyRef, hub: HubPublisher) -> None:
    """The hub may leave files out, by a .gitignore for instance."""
    listing = await hub.listing(ref)
    expected = dict(listing.files)
    if not (folder / _MADE_BY_HUB).exists():
        expected.pop(_MADE_BY_HUB, None)
    wrong = difference(folder, expected)
    if wrong is not None:
        raise ConfigurationError(
            f"At {ref.revision} the hub does not hold {wrong!a} as it is here.",
            advice="If a .gitignore in the folder names it, remove that; then deploy again.",
        )


async def _check_held(ref: PolicyRef, hub: HubPublisher, hotkey: str, *, dev: bool) -> None:
    """What the chain is about to name is there, within limits, and names its owner."""
    try:
        check_listing(await hub.listing(ref), ref, HubLimits.chosen())
        owner = await hub.reader.read_owner(ref)
    except PolicyError as error:
        raise ConfigurationError(f"{ref.repo} would be refused: {error.message}", advice=error.advice) from error
    if owner != hotkey and not dev:
        raise ConfigurationError(
            f"{OWNER_FILE} at {ref.revision} names {owner or 'no hotkey'}, not {hotkey}: the policy would not count "
            "as yours.",
            advice="Deploy without --skip-upload, which writes it, or use the hotkey that it names.",
        )


async def _commit(
    plan: DeployPlan, chain: Chain, signer: Signer, ref: PolicyRef, behind: int, tell: Callable[[str], None]
) -> Commit:
    hotkey = signer.ss58_address
    held = next((each.ref for each in await _commitments(chain, plan.netuid) if each.hotkey == hotkey), None)
    if held is None or not held.same_as(ref):
        tell(f"A new revision starts at the back of the line, behind {behind} other miners. Committing ...")
    commit = await commit_policy(chain, plan.netuid, ref, signer)
    back = await read_commitment(chain, plan.netuid, hotkey)
    if back is None or back.ref is None or not back.ref.same_as(ref):
        raise ChainError(
            f"The chain does not name {ref.repo}@{ref.revision} for {hotkey}, although it was committed.",
            advice=f"See `kinitro miner show-commitment --netuid {plan.netuid}`: another commitment may have followed.",
        )
    return commit


async def _show(plan: DeployPlan, hub: HubPublisher, tell: Callable[[str], None]) -> bool:
    """Makes the repo public unless it is to stay private; says whether it is private."""
    private = await hub.is_private(plan.repo)
    if private and not plan.keep_private:
        await hub.publish(plan.repo)
        tell(f"{plan.repo} is public now.")
        return False
    return private

# ruff: noqa: ASYNC240 - files of a few bytes
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants
from pydantic import SecretStr

from kinitro.chain import DevLedger, dev_signer, parse_commitment
from kinitro.deployments.hub import HubPublisher
from kinitro.errors import ChainRejected, ConfigurationError, InfrastructureError, NotRegistered
from kinitro.miner.deploy import Deployed, DeployPlan, deploy, preview
from kinitro.testing.hub import HubFault, LocalHub

NETUID = 7
ME = dev_signer("wallet", "me")
THIEF = dev_signer("wallet", "thief")


class RealNetwork:
    """The dev ledger behind another face: what is lenient on `dev` is not with this one."""

    def __init__(self, ledger: DevLedger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str):
        return getattr(self._ledger, name)


@pytest.fixture
def go(folder: Path, hub: LocalHub, ledger: DevLedger) -> Callable:
    """Deploys the folder to me/policy; `said` collects what the miner reads."""

    async def go(*, chain=ledger, signer=ME, said: list[str] | None = None, repo="me/policy", **plan) -> Deployed:
        tell = (said if said is not None else []).append
        return await deploy(DeployPlan(repo, folder, NETUID, **plan), chain, signer, HubPublisher(), tell)

    return go


def held(hub: LocalHub, revision: str) -> dict[str, bytes]:
    found = hub.repo("me/policy").find(revision)
    return {name: hub.content(file).read_bytes() for name, file in found[1].items()}


def writes(hub: LocalHub) -> list[str]:
    return [path for method, path, _ in hub.seen if method != "GET" and path.endswith(("create", "main", "settings"))]


async def committed(ledger: DevLedger, signer=ME) -> str | None:
    return next(n.commitment for n in (await ledger.subnet(NETUID)).neurons if n.hotkey == signer.ss58_address)


async def test_a_folder_becomes_a_public_revision_that_names_its_owner_and_that_the_chain_names(
    go, hub: LocalHub, ledger: DevLedger, folder: Path
) -> None:
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "policy.pyc").write_bytes(b"")
    said: list[str] = []
    done = await go(said=said)
    files = held(hub, done.ref.revision)
    assert files.pop(".gitattributes")
    assert json.loads(files.pop("kinitro.json")) == {"hotkey": ME.ss58_address}
    assert files == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert parse_commitment(await committed(ledger)) == done.ref
    assert not hub.repo("me/policy").private
    assert any("behind 0 other miners" in line for line in said)
    assert not (folder / "kinitro.json").exists()


async def test_the_repo_is_private_until_the_chain_names_it(go, hub: LocalHub, ledger: DevLedger, monkeypatch) -> None:
    seen = []

    async def commit(*arguments) -> int:
        seen.append(hub.repo("me/policy").private)
        return await DevLedger.commit(ledger, *arguments)

    monkeypatch.setattr(ledger, "commit", commit)
    await go()
    assert seen == [True]


async def test_the_same_again_sends_nothing(go, hub: LocalHub, ledger: DevLedger) -> None:
    first = await go()
    hub.seen.clear()
    again = await go()
    assert again.ref == first.ref
    assert again.commit.already
    assert [path for path in writes(hub) if not path.endswith(("create", "preupload/main"))] == []


async def test_a_change_makes_a_revision_that_holds_the_folder_and_nothing_else(
    go, hub: LocalHub, ledger: DevLedger, folder: Path
) -> None:
    first = await go()
    await ledger.register(NETUID, THIEF.ss58_address)
    await ledger.commit(NETUID, await committed(ledger), THIEF)
    (folder / "test_policy.py").unlink()
    (folder / "weights").mkdir()
    (folder / "weights" / "model.bin").write_bytes(b"\0" * 1000)
    said: list[str] = []
    second = await go(said=said)
    assert second.ref.revision != first.ref.revision
    assert second.commit.replaced == first.ref
    names = set(held(hub, second.ref.revision))
    assert "weights/model.bin" in names
    assert "test_policy.py" not in names
    assert any("back of the line, behind 1 other miners" in line for line in said)


async def test_a_repo_may_stay_private(go, hub: LocalHub) -> None:
    done = await go(keep_private=True)
    assert done.private
    assert hub.repo("me/policy").private


async def test_a_repo_that_is_public_already_stays_so_while_a_new_revision_is_uploaded(
    go, hub: LocalHub, folder: Path
) -> None:
    await go()
    hub.seen.clear()
    (folder / "policy.py").write_text("# new")
    await go()
    assert not any(path.endswith("settings") for _, path, _ in hub.seen)


async def test_a_revision_that_is_there_can_be_committed_without_uploading(go, hub: LocalHub, ledger) -> None:
    first = await go()
    hub.seen.clear()
    done = await go(chain=RealNetwork(ledger), revision=first.ref.revision)
    assert done.ref == first.ref
    assert writes(hub) == []


async def test_somebody_elses_policy_is_not_committed(go, hub: LocalHub, ledger: DevLedger) -> None:
    first = await go()
    await ledger.register(NETUID, THIEF.ss58_address)
    with pytest.raises(ConfigurationError, match=f"names {ME.ss58_address}, not {THIEF.ss58_address}"):
        await go(chain=RealNetwork(ledger), signer=THIEF, revision=first.ref.revision)
    assert await committed(ledger, THIEF) is None


async def test_nothing_is_sent_for_a_hotkey_that_is_not_registered(go, hub: LocalHub, ledger: DevLedger) -> None:
    await ledger.register(NETUID, THIEF.ss58_address)
    with pytest.raises(NotRegistered, match="is not registered on netuid 7"):
        await go(chain=RealNetwork(ledger))
    assert hub.seen == []


async def test_a_chain_that_refuses_leaves_the_upload_and_says_how_to_go_on(go, hub: LocalHub, ledger, monkeypatch):
    async def refuse(*_: object) -> int:
        raise ChainRejected("The commitment space is full.", advice="Wait for the next epoch.")

    monkeypatch.setattr(ledger, "commit", refuse)
    with pytest.raises(ChainRejected) as caught:
        await go()
    revision = hub.repo("me/policy").commits[-1][0]
    assert caught.value.advice == f"Wait for the next epoch. Then go on with --skip-upload --revision {revision}."
    assert hub.repo("me/policy").private


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"repo": "other/policy"}, "does not let this token change other/policy"),
        ({"revision": "0" * 40}, "no me/policy at that revision"),
    ],
)
async def test_what_the_hub_refuses_is_said_with_its_cause(go, hub: LocalHub, spoil: dict, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        await go(**spoil)


async def test_a_token_that_is_wrong_or_missing_is_named(
    go, hub: LocalHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConfigurationError, match="does not accept the token") as caught:
        await go()
    assert "HF_TOKEN" in caught.value.advice
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="no token for the hub"):
        HubPublisher()
    assert HubPublisher(SecretStr("hf_mine"))


async def test_a_token_that_can_only_read_is_said_before_anything_is_sent(hub: LocalHub, monkeypatch) -> None:
    await HubPublisher().check_rights("Me/policy")
    monkeypatch.setattr(hub, "_access", lambda _: {"role": "read"})
    with pytest.raises(ConfigurationError, match="token can only read"):
        await HubPublisher().check_rights("me/policy")
    assert writes(hub) == []


async def test_a_hub_in_trouble_is_not_the_miners_fault(go, hub: LocalHub) -> None:
    hub.faults.append(HubFault(500, path="/api/repos/create"))
    with pytest.raises(InfrastructureError, match="hub can't be reached"):
        await go()


@pytest.mark.parametrize("repo", ["policy", "me/" + "x" * 90, "me/-policy", "me/a--b"])
def test_a_repo_id_that_could_not_be_committed_is_refused_before_anything_is_sent(folder: Path, repo: str) -> None:
    with pytest.raises(ConfigurationError):
        DeployPlan(repo, folder, NETUID)


async def test_a_folder_that_is_too_big_is_refused_before_it_is_uploaded(go, hub, folder, monkeypatch) -> None:
    monkeypatch.setenv("KINITRO_MAX_REPO_SIZE_GB", "0.000001")
    with pytest.raises(ConfigurationError, match=r"at most 1\.0 kB are taken"):
        await go()
    assert hub.seen == []


async def test_a_dry_run_says_what_would_be_done_and_sends_nothing(folder, hub: LocalHub, ledger: DevLedger) -> None:
    said: list[str] = []
    await preview(DeployPlan("me/policy", folder, NETUID), ledger, ME.ss58_address, said.append)
    assert "Would upload 6 files" in said[0]
    assert '{"m":"me/policy","r":"' in said[1]
    assert "Nothing was sent" in said[2]
    assert hub.seen == []
    with pytest.raises(NotRegistered):
        await ledger.subnet(NETUID)

"""What lies elsewhere: chain, hub, a Kinitro API, Basilica, and what their clocks say."""

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from uuid import uuid4

import httpx
from pydantic import SecretStr

import kinitro
from kinitro.chain import DEV_LEDGER_FILE, HotkeyName, Subnet, open_chain, shown_network
from kinitro.client import KinitroClient, SetBy
from kinitro.doctor.findings import Finding, failed, ok, skipped, warning
from kinitro.doctor.machine import has_extra, wallet
from kinitro.errors import ApiError, ApiUnreachable, ChainError, InfrastructureError
from kinitro.executor.stage import basilica_token
from kinitro.schemas import LeaseRef, SystemStatus
from kinitro.settings import ExecutorSettings, home_directory

HUB = "https://huggingface.co"
_CALL_S = 10.0
_CLOCK_ODD_S = 10.0
_CLOCK_WRONG_S = 120.0


def clock_finding(served: datetime, here: datetime, by: str) -> Finding:
    """What a difference between two clocks means. Leases go by the database's clock alone; certificates do not."""
    ahead_s = (here - served).total_seconds()
    if abs(ahead_s) < _CLOCK_ODD_S:
        return ok("Clock", f"agrees with {by}")
    text = f"This machine's clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} that of {by}."
    advice = "Switch on time synchronisation: sudo timedatectl set-ntp true."
    return (failed if abs(ahead_s) > _CLOCK_WRONG_S else warning)("Clock", text, advice)


async def clock(url: str) -> Sequence[Finding]:
    """This machine's clock against the one that a server sends with its answers."""
    host = httpx.URL(url).host
    try:
        async with httpx.AsyncClient(timeout=_CALL_S) as client:
            before = datetime.now(UTC)
            answer = await client.head(url)
    except (httpx.HTTPError, httpx.InvalidURL):
        return [skipped("Clock", f"{host or url} does not answer, so there is nothing to compare with")]
    try:
        served = parsedate_to_datetime(answer.headers.get("Date", ""))
    except ValueError:
        return [skipped("Clock", f"{host} does not say what time it is")]
    # The header has whole seconds and was made somewhere on the way.
    here = before + (datetime.now(UTC) - before) / 2
    return [clock_finding(served if served.tzinfo else served.replace(tzinfo=UTC), here, host)]


def hub_url() -> str:
    """The hub that the SDK talks to."""
    return os.environ.get("HF_ENDPOINT") or HUB


async def hub(token: SecretStr | None, variable: str, *, without: str) -> Sequence[Finding]:
    """The hub, as whom we ask it. `without` is what having no token means."""
    if not has_extra("hub"):
        return [skipped("Hub", "the hub extra is not installed")]
    from kinitro.deployments.hub import HuggingFaceHub  # noqa: PLC0415 - optional, and slow to import

    try:
        await HuggingFaceHub(token).check()
    except InfrastructureError as error:
        if error.code == "hub_rate_limited":
            return [warning("Hub", error.message, f"Set {variable} for a higher limit, or wait.")]
        if error.code == "hub_refused":
            advice = f"Make a new token in the hub's settings and set {variable} to it."
            return [failed("Hub", f"The hub at {hub_url()} does not accept the token of {variable}.", advice)]
        return [failed("Hub", error.message, error.advice)]
    if token is None or not token.get_secret_value():
        return [ok("Hub", f"{hub_url()} answers; no token, {without}")]
    return [ok("Hub", f"{hub_url()} answers and knows the token of {variable}")]


async def publishing() -> Sequence[Finding]:
    """The hub, as a miner who uploads asks it."""
    if not has_extra("hub"):
        return [skipped("Hub", "the hub extra is not installed")]
    from kinitro.deployments.hub import saved_token  # noqa: PLC0415 - optional, and slow to import

    token = saved_token()
    found = await hub(token, "HF_TOKEN", without="only public repos can be read")
    if token is None:
        advice = "export HF_TOKEN=... (write access), or: hf auth login"
        return [*found, warning("Hub token", "There is none, and `kinitro miner deploy` needs one.", advice)]
    return found


_LEDGER_ADVICE = "Make one with `kinitro demo --setup-only`, or by the first `kinitro miner commit --network dev`."


class ChainLook:
    """One look at a chain, a subnet, and whether a hotkey is registered there. Others may wait for its genesis.

    With `validates` the hotkey must be one that may set weights.
    """

    def __init__(
        self, network: str, netuid: int | None, hotkey: HotkeyName | None = None, *, validates: bool = False
    ) -> None:
        self.netuid = netuid
        self._network = network
        self._hotkey = hotkey
        self._validates = validates
        self._genesis: str | None = None
        self._done = asyncio.Event()

    async def genesis(self) -> str | None:
        """Which chain it is; None when that could not be found out."""
        await self._done.wait()
        return self._genesis

    async def run(self) -> Sequence[Finding]:
        """The findings."""
        try:
            return await self._look()
        finally:
            self._done.set()

    async def _look(self) -> list[Finding]:
        found, address = [], None
        if self._hotkey is not None:
            of_wallet, address = wallet(self._network, self._hotkey)
            found.append(of_wallet)
        if self._network == "dev" and not (home_directory() / DEV_LEDGER_FILE).exists():
            # Opening it would make it.
            return [*found, failed("Chain", f"There is no dev ledger in {home_directory()} yet.", _LEDGER_ADVICE)]
        if self._network != "dev" and not has_extra("chain"):
            return [*found, skipped("Chain", "the chain extra is not installed")]
        async with open_chain(self._network) as chain:
            try:
                self._genesis = await chain.genesis()
                if self.netuid is None:
                    block = await chain.finalized_block()
                    found.append(ok("Chain", f"{shown_network(self._network)} answers, at block {block}"))
                    return [*found, skipped("Registration", "give --netuid to have the hotkey looked up")]
                subnet = await chain.subnet(self.netuid)
                permitted = not self._validates or address is None or await chain.has_permit(self.netuid, address)
            except ChainError as error:
                return [*found, failed("Chain", error.message, error.advice)]
        size = f"netuid {self.netuid} has {len(subnet.neurons)} neurons at block {subnet.block}"
        found.append(ok("Chain", f"{shown_network(self._network)} answers: {size}"))
        return found if address is None else [*found, self._registration(subnet, address, permitted=permitted)]

    def _registration(self, subnet: Subnet, address: str, *, permitted: bool) -> Finding:
        uid = next((neuron.uid for neuron in subnet.neurons if neuron.hotkey == address), None)
        if uid is not None and not permitted:
            text = f"Hotkey {address} is uid {uid} on netuid {self.netuid} and has no validator permit."
            return failed(
                "Registration", text, "Permits go to the hotkeys with the most stake: btcli subnets metagraph."
            )
        if uid is not None:
            return ok("Registration", f"the hotkey is uid {uid} on netuid {self.netuid}")
        if self._network == "dev":
            return ok("Registration", "not yet; on the dev ledger its first use registers the hotkey")
        advice = (
            f"Register it: btcli subnets register --netuid {self.netuid}. Or check --netuid and the wallet's flags."
        )
        return failed("Registration", f"Hotkey {address} is not registered on netuid {self.netuid}.", advice)


async def api(url: str, key: SecretStr | None = None, *, works: bool = False) -> Sequence[Finding]:
    """A Kinitro API, its version, its database, and with `works` whether it takes an executor's calls."""
    async with KinitroClient(url, key, _CALL_S, SetBy.EXECUTOR) as client:
        health = await client.health()
        if health.status != "ok":
            advice = "Look at the API's log, or run `kinitro doctor --role api` where it runs."
            return [failed("API", f"{url} answers, but its database does not.", advice)]
        found = [ok("API", f"{url} answers, Kinitro {health.version}")]
        if health.version != kinitro.__version__:
            text = f"The API is Kinitro {health.version}, and this is {kinitro.__version__}."
            found.append(warning("Version", text, "Run the same version on both sides."))
        if works:
            found.append(await _key(client, key))
    return found


async def _key(client: KinitroClient, key: SecretStr | None) -> Finding:
    """Gives back a task that nobody has: the API refuses us or finds nothing to do."""
    try:
        await client.release("kinitro-doctor", [LeaseRef(task_uuid=uuid4(), lease_token=uuid4())])
    except ApiError as error:
        advice = "Set KINITRO_EXECUTOR_API_KEY to the value of the API's KINITRO_API_API_KEY."
        return failed("API key", error.message, advice)
    return ok("API key", "the API takes this executor's calls" + ("" if key else " (no key: it is on this machine)"))


async def backend(url: str, look: ChainLook) -> Sequence[Finding]:
    """A validator's backend: does it publish weights for this subnet of this chain?"""
    async with KinitroClient(url, timeout_s=_CALL_S, set_by=SetBy.VALIDATOR) as client:
        status = await client.status()
        weights = None
        try:
            weights = await client.weights()
        except ApiError as error:
            if error.status_code != 404:
                raise
    found = [ok("Backend", f"{url} answers")]
    if (foreign := _foreign(status, look.netuid, await look.genesis())) is not None:
        return [*found, foreign]
    if weights is None:
        found.append(warning("Weights", "The backend has published no weights yet.", "Wait for its first cycle."))
    else:
        found.append(ok("Weights", f"of cycle {weights.cycle_id}, until block {weights.expires_at_block}"))
    return found


def _foreign(status: SystemStatus, netuid: int | None, genesis: str | None) -> Finding | None:
    if status.netuid is None or genesis is None or (status.netuid, status.genesis) == (netuid, genesis):
        return None
    text = f"The backend evaluates netuid {status.netuid} on the chain with genesis {status.genesis}."
    return failed("Subnet", text, "Check --backend-url, --netuid and --network.")


async def basilica(settings: ExecutorSettings) -> Sequence[Finding]:
    """The token, and whether the service knows it."""
    token = basilica_token(settings).get_secret_value()
    url = os.environ.get("BASILICA_API_URL")
    if not url:
        return [ok("Basilica", "a token is set; set BASILICA_API_URL to have it tried")]
    try:
        async with httpx.AsyncClient(timeout=_CALL_S) as client:
            answer = await client.get(f"{url.rstrip('/')}/deployments", headers={"Authorization": f"Bearer {token}"})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        text = f"{url} can't be reached: {str(error) or type(error).__name__}."
        return [failed("Basilica", text, "Check the network and BASILICA_API_URL.")]
    if answer.status_code in (401, 403):
        return [failed("Basilica", "Basilica does not accept the token.", "Make a new one at Basilica.")]
    if answer.status_code != 200:
        return [failed("Basilica", f"{url} answered {answer.status_code}.", "Check BASILICA_API_URL.")]
    return [ok("Basilica", f"{url} answers and knows the token")]


async def is_kinitro(url: str) -> bool:
    """Whether a Kinitro API answers there."""
    try:
        async with KinitroClient(url, timeout_s=_CALL_S) as client:
            await client.health()
    except (ApiError, ApiUnreachable):
        return False
    return True

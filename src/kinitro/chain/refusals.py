"""What a Bittensor chain's refusal of a write means to a person. Pure: it knows the chain's names, not its SDK."""

from dataclasses import dataclass

from kinitro.errors import AmbiguousWrite, ChainError, ChainRejected, NotRegistered, RateLimited

_NOT_REGISTERED = {"AccountNotAllowedCommit", "UidNotFound", "HotKeyNotRegisteredInSubNet"}
_WAIT = {
    "ExhaustsResources": "The chain's blocks are full.",
    "SpaceLimitExceeded": "This hotkey has used up its space for commitments in this epoch of the subnet.",
    "CommittingWeightsTooFast": "Weights were set too recently.",
    "SettingWeightsTooFast": "Weights were set too recently.",
}
_FORBIDDEN = {
    "NeuronNoValidatorPermit": "The hotkey has no validator permit, so it can't set weights for others.",
    "NotEnoughStakeToSetWeights": "The hotkey has too little stake to set weights.",
    "StakeAmountTooLow": "The hotkey has too little stake to set weights.",
}
# A write that left the pool without a verdict, or that another of the same hotkey stands before.
_UNKNOWN_FATE = {
    *("Usurped", "Retracted", "FinalityTimeout", "Dropped", "Invalid"),
    *("AlreadyImported", "PriorityTooLow", "Stale"),
}


@dataclass(frozen=True, slots=True)
class Write:
    """Whose write it was, and where to. `network` is as it may be shown."""

    network: str
    netuid: int
    hotkey: str


def refusal(write: Write, name: str, code: str, cause: str) -> ChainError:
    """Our error for a refusal, by the chain's name for it (may be empty) and the SDK's code (`unknown` when none)."""
    if code in ("not_registered", "subnet_not_exists") or name in _NOT_REGISTERED:
        return NotRegistered(
            f"Hotkey {write.hotkey} is not registered on netuid {write.netuid} of {write.network}.",
            advice="Check --wallet-name, --hotkey-name, --netuid and --network; to register: "
            f"`btcli subnets register --netuid {write.netuid}`.",
        )
    if name in _WAIT or code == "rate_limited":
        why = _WAIT.get(name, "The chain asks to wait.")
        return RateLimited(f"{why} {write.network} says: {cause}.", advice="Wait and try again.")
    if name in _FORBIDDEN:
        return ChainRejected(
            f"{_FORBIDDEN[name]} Hotkey {write.hotkey}, netuid {write.netuid} of {write.network}.",
            advice="Permits go to the hotkeys with the most stake; see `btcli subnets metagraph`.",
        )
    if name in _UNKNOWN_FATE or (not name and code == "unknown"):
        return unknown_fate(write, cause)
    return ChainRejected(f"{write.network} refused the write: {name or code}: {cause}.")


def unknown_fate(write: Write, cause: str) -> AmbiguousWrite:
    """Our error when nobody said what became of a write."""
    return AmbiguousWrite(
        f"{write.network} took the write but did not say what became of it: {cause}.",
        advice="It may still land: look it up before you try again.",
    )

"""Substrate addresses, as far as the dev ledger needs them: a public key's text form."""

import hashlib

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PREFIX = b"\x2a"  # 42, "generic substrate", which Bittensor uses


def encode_ss58(public_key: bytes) -> str:
    """The address of a 32-byte public key."""
    payload = _PREFIX + public_key
    number = int.from_bytes(payload + _checksum(payload), "big")
    text = ""
    while number:
        number, digit = divmod(number, len(_ALPHABET))
        text = _ALPHABET[digit] + text
    return text


def _checksum(payload: bytes) -> bytes:
    return hashlib.blake2b(b"SS58PRE" + payload).digest()[:2]

"""Seeds of a cycle's episodes, from a salt fixed first and a block hash nobody knew then (contracts section 7)."""

import hashlib
import hmac

SALT_BYTES = 32


def salt_digest(salt: bytes) -> str:
    """What is published before the target block: hex sha256 of the salt."""
    return hashlib.sha256(salt).hexdigest()


def episode_seed(salt: bytes, block_hash: str, env_id: str, index: int) -> int:
    """The environment's seed of episode `index` (from 0), the same for every miner. 0 to 2**31 - 1.

    `block_hash` is `0x` and 64 hex digits.
    """
    text = bytes.fromhex(block_hash.removeprefix("0x")) + f"\0{env_id}\0{index}".encode()
    return _first_31_bits(hashlib.sha256(salt + text).digest())


def policy_seed(salt: bytes, hotkey: str, env_id: str, index: int) -> int:
    """The seed a policy is told. Says nothing about the environment's seed, and differs between miners."""
    message = f"policy\0{hotkey}\0{env_id}\0{index}".encode()
    return _first_31_bits(hmac.digest(salt, message, "sha256"))


def _first_31_bits(digest: bytes) -> int:
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF

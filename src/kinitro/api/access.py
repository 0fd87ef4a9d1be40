"""Who may call the POST routes (contracts section 3). Pure: headers and addresses in, a refusal or none out."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address, ip_address

from pydantic import SecretStr

from kinitro.errors import ConfigurationError

KEY_ADVICE = (
    "To call from elsewhere, set KINITRO_API_API_KEY where the API runs and the same key as "
    "KINITRO_EXECUTOR_API_KEY where the executor runs."
)

_FORWARDING = frozenset(
    {b"forwarded", b"via", b"x-real-ip", b"client-ip", b"true-client-ip", b"cf-connecting-ip", b"fastly-client-ip"}
)


@dataclass(frozen=True)
class AccessRule:
    """What a caller must show. Without a key only this machine's own programs may call."""

    api_key: SecretStr | None
    no_auth: bool = False


@dataclass(frozen=True)
class Caller:
    """Where a request comes from. `headers` are as ASGI gives them: lower-case names, raw values, repeats kept."""

    peer: str | None
    headers: tuple[tuple[bytes, bytes], ...]

    def values(self, name: bytes) -> list[str]:
        """Every value of one header."""
        return [value.decode("latin-1") for key, value in self.headers if key == name]


@dataclass(frozen=True)
class Refusal:
    """The answer to a caller who may not call: 401 or 403, and what to do about it."""

    status_code: int
    detail: str


def refusal(rule: AccessRule, caller: Caller) -> Refusal | None:
    """Why this caller may not use the POST routes, or None when it may."""
    if rule.no_auth:
        return None
    if rule.api_key is not None:
        return _refuse_without_key(rule.api_key.get_secret_value(), caller)
    reason = _not_local(caller)
    if reason is None:
        return None
    return Refusal(403, f"This API has no key, so it takes tasks calls from this machine only; {reason}. {KEY_ADVICE}")


def refuse_open_door(rule: AccessRule, address: str, host: str) -> None:
    """Raises `ConfigurationError` when `--no-auth` would open the POST routes to more than this machine.

    `address` is the IP address that `host` comes to.
    """
    if rule.no_auth and not is_loopback(address):
        raise ConfigurationError(
            f"--no-auth is refused on --host {host}: anyone who reaches {address} could submit results.",
            advice="Use --host 127.0.0.1, or drop --no-auth and set KINITRO_API_API_KEY.",
        )


def is_loopback(address: str) -> bool:
    """Whether an IP address, as text, is this machine's own. An IPv4 address mapped into IPv6 counts as IPv4."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def _refuse_without_key(key: str, caller: Caller) -> Refusal | None:
    given = caller.values(b"authorization")
    if not given:
        return Refusal(401, f"This route needs the API's key: send `Authorization: Bearer KEY`. {KEY_ADVICE}")
    if len(given) == 1 and _is_bearer(given[0], key):
        return None
    return Refusal(401, f"The key in `Authorization: Bearer KEY` is not this API's. {KEY_ADVICE}")


def _is_bearer(given: str, key: str) -> bool:
    scheme, _, token = given.partition(" ")
    # Equal lengths and constant time: digests are compared, so neither the key's length nor its start leaks.
    offered = sha256(token.strip().encode("latin-1")).digest()
    same = hmac.compare_digest(offered, sha256(key.encode()).digest())
    return same and scheme.lower() == "bearer"


def _not_local(caller: Caller) -> str | None:
    """A web page, a proxy or another machine, or None for a program on this machine (DNS rebinding fails on Host)."""
    if caller.peer is None or not is_loopback(caller.peer):
        return f"this call came from {caller.peer or 'an unknown address'}"
    hosts = caller.values(b"host")
    if len(hosts) != 1 or not _is_local_host(hosts[0]):
        return "this call's Host header is not localhost or a loopback address"
    if caller.values(b"origin"):
        return "this call carries an Origin header, as a web page's does"
    if forwarding := _forwarding_headers(name for name, _ in caller.headers):
        return f"this call came through a proxy (header {forwarding[0]})"
    if [_media_type(value) for value in caller.values(b"content-type")] != ["application/json"]:
        return "this call's Content-Type is not application/json"
    return None


def _is_local_host(host: str) -> bool:
    """Whether a Host header, `name`, `name:port` or `[v6]:port`, names this machine."""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        port = rest.removeprefix(":")
        well_formed = bool(bracket) and (not rest or rest.startswith(":"))
    else:
        name, colon, port = host.partition(":")
        well_formed = not colon or bool(port)
    if not well_formed or (port and not (port.isascii() and port.isdigit())):
        return False
    return name.lower() == "localhost" or is_loopback(name)


def _forwarding_headers(names: Iterable[bytes]) -> list[str]:
    return [name.decode("latin-1") for name in names if name in _FORWARDING or name.startswith(b"x-forwarded")]


def _media_type(value: str) -> str:
    return value.partition(";")[0].strip().lower()

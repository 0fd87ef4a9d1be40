import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from kinitro.api.access import AccessRule, Caller, is_loopback, refusal, refuse_open_door
from kinitro.errors import ConfigurationError

KEYLESS = AccessRule(api_key=None)
KEYED = AccessRule(api_key=SecretStr("sesame-42"))

LOCAL = {"host": "localhost:8000", "content-type": "application/json"}


def caller(peer: str | None = "127.0.0.1", headers: dict[str, str] | None = None, **extra: str) -> Caller:
    named = {
        **(LOCAL if headers is None else headers),
        **{name.replace("_", "-"): value for name, value in extra.items()},
    }
    return Caller(peer, tuple((name.encode(), value.encode("latin-1")) for name, value in named.items()))


def status(rule: AccessRule, who: Caller) -> int | None:
    refused = refusal(rule, who)
    return None if refused is None else refused.status_code


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]", "[::1]:8000"])
def test_without_a_key_a_program_on_this_machine_may_call(peer: str, host: str) -> None:
    assert status(KEYLESS, caller(peer, host=host)) is None


@pytest.mark.parametrize("peer", ["10.0.0.3", "192.168.1.2", "::ffff:10.0.0.3", "fe80::1%eth0", "testclient", "", None])
def test_without_a_key_another_machine_is_refused(peer: str | None) -> None:
    assert status(KEYLESS, caller(peer)) == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8000",
        "evil@localhost",
        "localhost@evil.example",
        "0.0.0.0:8000",
        "10.0.0.3:8000",
        "[::1]evil",
        "[::1",
        "localhost:",
        "localhost:80 80",
        "localhost:8000:9",
        "127.1",
        "",
    ],
)
def test_without_a_key_a_name_that_is_not_this_machine_is_refused_so_dns_rebinding_fails(host: str) -> None:
    assert status(KEYLESS, caller(host=host)) == 403


def test_without_a_key_a_missing_or_repeated_host_is_refused() -> None:
    json_only = (b"content-type", b"application/json")
    assert status(KEYLESS, Caller("127.0.0.1", (json_only,))) == 403
    twice = ((b"host", b"localhost"), (b"host", b"evil.example"), json_only)
    assert status(KEYLESS, Caller("127.0.0.1", twice)) == 403


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://evil.example", "null", ""])
def test_without_a_key_a_web_page_is_refused(origin: str) -> None:
    assert status(KEYLESS, caller(origin=origin)) == 403


@pytest.mark.parametrize(
    "name",
    [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded",
        "x-real-ip",
        "via",
        "cf-connecting-ip",
        "true-client-ip",
    ],
)
def test_without_a_key_a_call_through_a_proxy_is_refused_and_the_header_is_named(name: str) -> None:
    refused = refusal(KEYLESS, caller(headers={**LOCAL, name: "127.0.0.1"}))
    assert refused is not None
    assert refused.status_code == 403
    assert name in refused.detail


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "", "json"]
)
def test_without_a_key_a_body_a_web_form_could_send_is_refused(content_type: str) -> None:
    assert status(KEYLESS, caller(content_type=content_type)) == 403


def test_without_a_key_json_with_a_charset_is_json() -> None:
    assert status(KEYLESS, caller(content_type="Application/JSON; charset=utf-8")) is None


def test_without_a_key_no_content_type_is_refused() -> None:
    assert status(KEYLESS, caller(headers={"host": "localhost"})) == 403


def test_a_refusal_says_how_to_set_the_key_on_both_sides() -> None:
    for refused in (refusal(KEYLESS, caller("10.0.0.3")), refusal(KEYED, caller())):
        assert refused is not None
        assert "KINITRO_API_API_KEY" in refused.detail
        assert "KINITRO_EXECUTOR_API_KEY" in refused.detail
        assert "sesame" not in refused.detail


def test_with_a_key_its_holder_may_call_from_anywhere_and_through_a_proxy() -> None:
    far = caller(
        "203.0.113.9", headers={"host": "api.example", "x-forwarded-for": "1.2.3.4"}, authorization="Bearer sesame-42"
    )
    assert status(KEYED, far) is None
    assert status(KEYED, caller(authorization="bearer  sesame-42")) is None


@pytest.mark.parametrize(
    "given",
    [
        "Bearer sesame-4",
        "Bearer sesame-421",
        "Bearer",
        "Bearer ",
        "sesame-42",
        "Basic sesame-42",
        "",
        "Bearer SESAME-42",
    ],
)
def test_with_a_key_any_other_is_401_even_on_this_machine(given: str) -> None:
    assert status(KEYED, caller(authorization=given)) == 401


def test_with_a_key_a_program_on_this_machine_needs_it_too() -> None:
    assert status(KEYED, caller()) == 401


def test_two_keys_in_one_call_are_none() -> None:
    both = Caller("127.0.0.1", ((b"authorization", b"Bearer sesame-42"), (b"authorization", b"Bearer wrong")))
    assert status(KEYED, both) == 401


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=40))
def test_only_the_key_itself_opens(given: str) -> None:
    accepted = status(KEYED, caller(authorization=f"Bearer {given}")) is None
    assert accepted == (given.strip() == "sesame-42")


def test_a_key_outside_ascii_works() -> None:
    key = "schlüssel"
    sent = Caller("10.0.0.3", ((b"authorization", f"Bearer {key}".encode()),))
    assert status(AccessRule(SecretStr(key)), sent) is None


def test_no_auth_asks_nothing() -> None:
    assert status(AccessRule(api_key=None, no_auth=True), caller(None, headers={})) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1"])
def test_no_auth_is_taken_on_a_loopback_bind(address: str) -> None:
    refuse_open_door(AccessRule(api_key=None, no_auth=True), address, address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.2", "::ffff:0.0.0.0"])
def test_no_auth_is_refused_on_any_other_bind_with_advice(address: str) -> None:
    with pytest.raises(ConfigurationError, match="--no-auth is refused on --host") as caught:
        refuse_open_door(AccessRule(api_key=None, no_auth=True), address, address)
    assert "KINITRO_API_API_KEY" in str(caught.value)


def test_a_public_bind_without_no_auth_is_fine() -> None:
    refuse_open_door(KEYLESS, "0.0.0.0", "0.0.0.0")


@given(st.ip_addresses())
def test_loopback_is_what_the_standard_says(address: object) -> None:
    text = str(address)
    mapped = getattr(address, "ipv4_mapped", None)
    assert is_loopback(text) == (mapped or address).is_loopback  # type: ignore[attr-defined]

import re

import pytest

from kinitro.backends.basilica.settings import Names, checked_address, is_of_call, is_of_run, is_private
from kinitro.errors import ConfigurationError

RUN, OTHER = "0123456789", "9876543210"
DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


def by_affinetes(image: str, call: str) -> str:
    """The name that affinetes 0.2.0 gives to the deployment of one call, as its code makes it."""
    safe_image = image.rsplit("/", maxsplit=1)[-1].replace(":", "-").replace("_", "-")[:15]
    return f"{safe_image}-evaluate-t{call}-1795707633"[:63].lower()


def test_every_name_is_unique_and_a_dns_label() -> None:
    names = Names(RUN)
    made = [names.policy() for _ in range(500)] + [
        by_affinetes("kinitro/metaworld:v1", names.call()) for _ in range(500)
    ]
    assert len(set(made)) == 1000
    assert all(DNS_LABEL.fullmatch(name) for name in made)


def test_even_the_hundred_millionth_call_keeps_its_whole_name() -> None:
    call = f"{RUN}-{10**8}"
    name = by_affinetes("someone/an-image-with-a-long-name:v1", call)
    assert is_of_call(name, call)
    assert DNS_LABEL.fullmatch(name)


def test_what_is_of_a_run_is_told_by_the_name_alone() -> None:
    names = Names(RUN)
    policy, call = names.policy(), names.call()
    environment = by_affinetes("kinitro/metaworld:v1", call)
    for name in (policy, environment):
        assert is_of_run(name, RUN)
        assert not is_of_run(name, OTHER)
    assert is_of_call(environment, call)
    assert not is_of_call(environment, names.call())
    assert not any(is_of_run(name, RUN) for name in ("web", f"web-{RUN}", "kinitro-1", f"my-kinitro-{RUN}-1"))


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("https://api.basilica.ai", True),
        ("http://127.0.0.1:5556", True),
        ("http://localhost:5556", True),
        ("http://[::1]:5556", True),
        ("http://api.basilica.ai", False),
        ("http://127.0.0.1.example.com", False),
        ("http://10.0.0.3", False),
        ("http://0.0.0.0:8000", False),
        ("ftp://127.0.0.1", False),
        ("https://", False),
        ("api.basilica.ai", False),
        ("http://[", False),
    ],
)
def test_an_address_is_private_by_https_or_on_this_machine(url: str, private: bool) -> None:
    assert is_private(url) is private
    if private:
        assert checked_address(url, "BASILICA_API_URL") == url
    else:
        with pytest.raises(ConfigurationError, match=r"BASILICA_API_URL is .* anyone to read. Use an https://"):
            checked_address(url, "BASILICA_API_URL")

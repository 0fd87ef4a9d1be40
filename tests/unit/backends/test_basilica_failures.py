"""How often a deployment is paid for a policy that does not start."""

import pytest

from kinitro.backends.base import Source
from kinitro.backends.basilica.failures import Failures
from kinitro.errors import InfrastructureError

MINE, OTHER = Source("a/b", "1" * 40, "d"), Source("a/c", "1" * 40, "d")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def paid(failures: Failures, clock: Clock, hours: float) -> int:
    """How many deployments a policy gets that fails each time, asked for every second."""
    count, end = 0, clock.now + hours * 3600
    while clock.now < end:
        try:
            failures.raise_if_too_soon(MINE)
        except InfrastructureError:
            pass
        else:
            count += 1
            failures.add(MINE, InfrastructureError("The hub refuses it.", code="hub_refused"))
        clock.now += 1
    return count


def test_a_policy_that_keeps_failing_is_paid_for_more_and_more_rarely() -> None:
    clock = Clock()
    failures = Failures(clock)
    assert paid(failures, clock, hours=1) == 6
    assert paid(failures, clock, hours=10) == 20


def test_others_are_not_held_back_and_one_that_starts_is_forgotten() -> None:
    failures = Failures(Clock())
    failures.add(MINE, InfrastructureError("no", code="deployment_not_ready"))
    failures.raise_if_too_soon(OTHER)
    with pytest.raises(InfrastructureError, match="no No other deployment is made") as caught:
        failures.raise_if_too_soon(Source("A/B", "1" * 40, "d"))
    assert caught.value.code == "deployment_not_ready"
    failures.forget(MINE)
    failures.raise_if_too_soon(MINE)


def test_what_cost_nothing_may_be_tried_at_once() -> None:
    failures = Failures(Clock())
    failures.add(MINE, InfrastructureError("no", code="basilica_quota"))
    failures.raise_if_too_soon(MINE)

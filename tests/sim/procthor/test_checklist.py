"""The operator's checklist, run against the stand-in: it does not pass there."""

import pytest

from kinitro.environments.procthor.checklist import Verdict, run_checklist
from kinitro.errors import EnvironmentFault
from kinitro.testing.procthor import stand_in_launch


@pytest.mark.timeout(300)
def test_on_the_stand_in_every_check_passes_but_that_it_is_ai2_thor():
    checks = list(run_checklist(stand_in_launch()))
    assert [check.name for check in checks if check.verdict is not Verdict.PASSED] == ["it is AI2-THOR"]


def test_a_player_that_does_not_start_fails_the_first_check_and_skips_the_rest():
    from dataclasses import replace

    first, *others = run_checklist(replace(stand_in_launch(), command="/bin/false"))
    assert first.verdict is Verdict.FAILED
    assert {check.verdict for check in others} == {Verdict.SKIPPED}
    assert EnvironmentFault.__name__ not in first.detail

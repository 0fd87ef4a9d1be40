"""Nothing of the guide is passed over in silence."""

import re

from . import guide


def test_every_command_of_the_guide_is_run_or_the_reason_why_not_is_written_down() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", guide.GUIDE, re.DOTALL)
    every = set().union(*(guide.command_lines(block) for block in blocks))
    run = set().union(*(guide.command_lines(piece) for piece in guide.RUN))
    assert every - run == set(guide.NOT_RUN)

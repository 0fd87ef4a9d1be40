"""Finished episodes run again from their records: are they the same, and what did they look like?"""

from kinitro.replay.compare import Answer, Comparison, Run, compare
from kinitro.replay.recorded import (
    Recorded,
    can_be_replayed,
    episodes_of,
    failure_worth_seeing,
    recorded,
    select,
    steps_elsewhere,
)
from kinitro.replay.resimulate import recorded_steps, resimulate
from kinitro.replay.run import Replay, replay, without_policy

__all__ = [
    "Answer",
    "Comparison",
    "Recorded",
    "Replay",
    "Run",
    "can_be_replayed",
    "compare",
    "episodes_of",
    "failure_worth_seeing",
    "recorded",
    "recorded_steps",
    "replay",
    "resimulate",
    "select",
    "steps_elsewhere",
    "without_policy",
]

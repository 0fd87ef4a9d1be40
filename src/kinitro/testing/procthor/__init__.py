"""A stand-in for AI2-THOR's player, for tests where its Unity build can't be had. It proves nothing about AI2-THOR.

It speaks the player's real protocols to the real Controller, in a world of boxes: no physics, its own rules of
placement and visibility. Nothing scored may run on it: it says so in every event, and marks the environment's version.
"""

from kinitro.testing.procthor.launch import build_on_stand_in, stand_in_launch, stand_in_specs

__all__ = ["build_on_stand_in", "stand_in_launch", "stand_in_specs"]

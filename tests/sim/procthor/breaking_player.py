"""The stand-in, but on MoveAhead it dies and on MoveBack it says nothing more."""

import os
import time

from kinitro.testing.procthor.player import Player, main

act = Player.act


def broken(player, action):
    if action["action"] == "MoveAhead":
        os._exit(3)
    if action["action"] == "MoveBack":
        time.sleep(600)
    act(player, action)


Player.act = broken
main()

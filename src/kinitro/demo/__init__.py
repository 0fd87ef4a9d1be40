"""`kinitro demo`: the whole loop on this machine, with the processes a production machine would run."""

from kinitro.demo.run import ENVIRONMENTS, NETUID, DemoOptions, enter_miners, run_demo

__all__ = ["ENVIRONMENTS", "NETUID", "DemoOptions", "enter_miners", "run_demo"]

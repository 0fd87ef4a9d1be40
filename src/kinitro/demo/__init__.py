"""`kinitro demo`: the whole loop on this machine, with the processes a production machine would run."""

from kinitro.demo.run import DemoOptions, run_demo

__all__ = ["DemoOptions", "run_demo"]

"""Cycles: what is evaluated, when it is over, and what it is worth."""

from kinitro.scheduler.service import serve

__all__ = ["serve"]

"""Cycles: what is evaluated, when it is over, and what it is worth."""

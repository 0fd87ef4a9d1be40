"""Leases tasks, runs their episodes against the miners' policies, and reports what they came to."""

from kinitro.executor.service import build_executor, run

__all__ = ["build_executor", "run"]

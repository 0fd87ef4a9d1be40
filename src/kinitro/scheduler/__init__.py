"""Cycles: what is evaluated, when it is over, and what it is worth."""

from kinitro.scheduler.rebuild import RebuildReport, rebuild_evidence
from kinitro.scheduler.service import serve

__all__ = ["RebuildReport", "rebuild_evidence", "serve"]

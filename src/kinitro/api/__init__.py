"""The HTTP API: leases and results for executors, scores and weights for everyone."""

from kinitro.api.app import build_app
from kinitro.api.service import serve

__all__ = ["build_app", "serve"]

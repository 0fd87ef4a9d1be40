"""How something is launched: one spec, one handle, one conformance suite (`kinitro.testing.backend_suite`)."""

from kinitro.backends.base import Backend, LaunchSpec, Limits, NetworkAccess, Role, Running
from kinitro.backends.process import ProcessBackend

__all__ = ["Backend", "LaunchSpec", "Limits", "NetworkAccess", "ProcessBackend", "Role", "Running"]

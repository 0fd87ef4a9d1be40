"""How something is launched: one spec, one handle, one conformance suite (`kinitro.testing.backend_suite`)."""

from kinitro.backends.base import LOCAL_HOST, Backend, LaunchSpec, Limits, Memory, NetworkAccess, Role, Running, Source
from kinitro.backends.process import ProcessBackend

__all__ = [
    "LOCAL_HOST",
    "Backend",
    "LaunchSpec",
    "Limits",
    "Memory",
    "NetworkAccess",
    "ProcessBackend",
    "Role",
    "Running",
    "Source",
]

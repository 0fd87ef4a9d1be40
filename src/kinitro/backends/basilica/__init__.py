"""Servers as deployments of Basilica, a cloud service. docs/basilica.md says how, and what that can't isolate."""

from kinitro.backends.basilica.backend import BasilicaBackend
from kinitro.backends.basilica.meter import Usage
from kinitro.backends.basilica.settings import BasilicaSettings, checked_address

__all__ = ["BasilicaBackend", "BasilicaSettings", "Usage", "checked_address"]

"""Servers as containers of a Docker engine, shut off from everything but their caller. docs/docker.md says how."""

from kinitro.backends.docker.backend import DockerBackend
from kinitro.backends.docker.fleet import DockerFleet
from kinitro.backends.docker.settings import DockerSettings
from kinitro.backends.docker.sweep import clean_up

__all__ = ["DockerBackend", "DockerFleet", "DockerSettings", "clean_up"]

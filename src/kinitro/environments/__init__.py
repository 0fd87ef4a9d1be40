"""Simulated tasks: the contract they keep, the catalogue, the one episode loop and the server that runs it."""

from kinitro.environments.base import Environment, EnvironmentOptions, EnvironmentSpec
from kinitro.environments.registry import build, catalogue, find, select, served_by

__all__ = ["Environment", "EnvironmentOptions", "EnvironmentSpec", "build", "catalogue", "find", "select", "served_by"]

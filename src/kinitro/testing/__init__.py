"""Conformance suites and stand-ins, shipped for those who add a backend, a chain or an environment."""

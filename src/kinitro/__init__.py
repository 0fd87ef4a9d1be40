"""Kinitro: fair, trusted and fast evaluation of robot policies that strangers submit."""

from importlib.metadata import version

__version__ = version("kinitro")

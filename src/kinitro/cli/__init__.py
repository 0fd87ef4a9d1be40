"""The `kinitro` command. Thin: each command reads its flags, calls one function and prints what came back."""

from kinitro.cli.app import main

__all__ = ["main"]

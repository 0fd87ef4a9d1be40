"""The `kinitro` command."""

"""The command ``haloformer``; each command has a light module here, with its options and tables."""

from haloformer.cli.entry import COMMANDS, main

__all__ = ["COMMANDS", "main"]

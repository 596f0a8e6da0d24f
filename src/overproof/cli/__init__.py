"""The command line: each command's words in a file of its name. The only package that prints.

Everything that needs torch is imported inside the command that needs it: --help and a misspelt option answer at once.
"""

from overproof.cli.app import app, main

__all__ = ["app", "main"]

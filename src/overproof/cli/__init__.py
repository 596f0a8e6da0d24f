"""The command line: each verb's words in a file of its name. The only room that prints.

Everything that needs torch is imported inside the verb that needs it: --help and a misspelt option answer at once.
"""

from overproof.cli.app import app, main

__all__ = ["app", "main"]

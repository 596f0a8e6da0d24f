"""``python -m overproof``: the command line."""

from overproof.cli import main

main()

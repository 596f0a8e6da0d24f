"""The words of `overproof clean`."""

from pathlib import Path
from typing import Annotated

import typer

from overproof.cli.console import say


def clean(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also what unfinished work needs, which can then not be continued.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
) -> None:
    """Remove what only --resume needs: checkpoints of finished runs, states of finished evaluations; never results.

    Example: overproof clean runs/mnist-ard runs/mnist-teacher --dry-run
    """
    from overproof.commands.clean import clean as cleaned

    result = cleaned(*runs, unfinished=unfinished, dry_run=dry_run)
    removed = "would be removed" if dry_run else "removed"
    for one in result:
        say(f"{one.folder}: {one.bytes:,} bytes in {len(one.files)} files {removed}")
        for sentence in one.kept:
            say(f"{one.folder}: {sentence} (--unfinished removes them)")
    if len(result) > 1:
        say(f"together: {sum(one.bytes for one in result):,} bytes {removed}")

"""``python -m benchmarks.frames train RECIPE ...``: the files and frames between a command and its first gradient.

The words are those of ``overproof``; the command ends where a gradient is first asked for, and what it has begun to
write stays where it was told to.
"""

import sys
import traceback
from pathlib import PurePath
from typing import Any, NoReturn

import torch

from overproof.cli import main


class Reached(BaseException):
    """A gradient is asked for. (No ``Exception``: nothing on the way may take it for one of its own.)"""


def frames(words: list[str]) -> list[tuple[str, str]]:
    """Return the file and the function of every frame of ours, from the command line to the first gradient."""
    found: list[tuple[str, str]] = []

    def asked(*_: Any, **__: Any) -> NoReturn:
        for frame in traceback.extract_stack():
            parts = PurePath(frame.filename).parts
            if "overproof" in parts:
                last = len(parts) - parts[::-1].index("overproof")
                found.append(("/".join(parts[last:]), frame.name))
        raise Reached

    grad, argv = torch.autograd.grad, sys.argv
    torch.autograd.grad, sys.argv = asked, ["overproof", *words]
    try:
        main()
    except (Reached, SystemExit):
        pass
    finally:
        torch.autograd.grad, sys.argv = grad, argv
    return found


if __name__ == "__main__":
    reached = frames(sys.argv[1:])
    for file, function in reached:
        print(f"{file} {function}")
    print(f"{len({file for file, _ in reached})} files, {len(reached)} frames")

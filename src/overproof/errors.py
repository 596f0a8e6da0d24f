"""The one exception for what a user gave: one sentence that says what is wrong and what would be right."""

from collections.abc import Iterable
from difflib import get_close_matches

from overproof.wording import one_line

_COMPARED = 200  # characters


class InputError(ValueError):
    """What was given cannot be used. Commands print the message and exit with status 2; nothing is lost.

    The message is one line of visible text, whatever names of a stranger it quotes.
    """

    def __init__(self, sentence: str = "") -> None:
        super().__init__(one_line(sentence))


class AgreedError(InputError):
    """Bad input that all processes of a task raise alike; the first of them says it for all."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean ...?)`` for a misspelt name, or the names to choose from."""
    names = sorted(known)
    # Comparing takes the product of two lengths: nobody misspells a name of a thousand letters.
    close = get_close_matches(name, names, n=1, cutoff=0.5) if len(name) <= _COMPARED else []
    return f" (did you mean {close[0]!r}?)" if close else f" (one of: {', '.join(names)})"

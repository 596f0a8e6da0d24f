"""Being asked to end: by a signal that is noted where work must first be saved, and heeded at once elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

_AGAIN = 1.0  # seconds after which a further signal is a new one: launchers pass on what their processes got as well


class Stopped(KeyboardInterrupt):
    """Work ended because it was asked to, and was saved; the message says what, where, and how it goes on."""

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(sentence)
        self.number = number


class Stop:
    """Whether somebody asked a long piece of work to end.

    A signal's handler calls ``ask`` with its number. Within ``noted`` that is kept in ``number`` (0: nobody asked), for
    the work to look at between two of its steps; elsewhere, and where somebody asks once more after a second, it raises
    ``KeyboardInterrupt`` at once.
    """

    def __init__(self) -> None:
        self.number = 0
        self._noting = False
        self._since = 0.0

    def ask(self, number: int) -> None:
        """Note that a signal came; raise ``KeyboardInterrupt`` where nothing has to be saved first."""
        again = self.number and monotonic() - self._since >= _AGAIN
        if not self.number:
            self.number, self._since = number, monotonic()
        if again or not self._noting:
            raise KeyboardInterrupt

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Let signals be noted while something is done that looks at ``number``."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Let signals end what is done within ``noted`` at once, because all before it is saved.

        One that was noted before ends it as well.
        """
        self._noting = False
        try:
            if self.number:
                raise KeyboardInterrupt
            yield
        finally:
            self._noting = True

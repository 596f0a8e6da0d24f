"""What a task asks of a network; the one fact that data and models share."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Images ``[N, channels, height, width]`` in, ``classes`` logits out."""

    channels: int
    height: int
    width: int
    classes: int

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}, {self.classes} classes"

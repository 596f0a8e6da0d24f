"""Every random draw is a function of where it happens, so a resumed run draws what an uninterrupted one would."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b

import torch
from torch import Tensor

from overproof.processes import WHOLE, Part

# Which rows of a batch this process draws for. Attacks of other packages draw deep inside a step and are given no such
# argument; only the training loop sets it, by ``drawing``, and for that step and thread alone.
_PART: ContextVar[Part] = ContextVar("part", default=WHOLE)


def seed_at(seed: int, *place: str | int) -> int:
    """Return a 63-bit seed for a place such as ``("step", epoch, batch, rank)``; equal places give equal seeds."""
    text = "/".join(str(part) for part in (seed, *place))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_at(device: torch.device, seed: int, *place: str | int) -> torch.Generator:
    """Return a fresh generator on the device, seeded for a place."""
    generator = torch.Generator(device)
    generator.manual_seed(seed_at(seed, *place))
    return generator


@contextmanager
def drawing(part: Part) -> Iterator[None]:
    """Let ``drawn`` draw for a process's part of a batch, as ambient as the generator that it draws from."""
    token = _PART.set(part)
    try:
        yield
    finally:
        _PART.reset(token)


def drawn(draw: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Return ``draw(like)``, a draw per row; inside ``drawing`` the rows that a single process would have drawn here.

    A generator's numbers come in one order, so every process draws for the whole batch, from the same seed, and keeps
    its own rows: the run does not depend on the number of processes. A draw costs next to nothing beside a pass.
    """
    part = _PART.get()
    if part.processes.count == 1:
        return draw(like)
    if len(like) != part.size:
        raise RuntimeError(f"a draw for {len(like)} rows in a part of {part.size}: draw for the rows of the batch")
    # Numbers are drawn in the order of the memory.
    order = torch.channels_last if like.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    shape = (part.whole, *like.shape[1:])
    return part.rows(draw(torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order)))

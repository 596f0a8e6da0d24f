"""Borrowing a model whose forward may store what it computes: afterwards it holds what it held before."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

_BORROWED = (
    type,
    ModuleType,
    FunctionType,
    MethodType,
    BuiltinFunctionType,
    torch.dtype,
    torch.device,
    torch.Generator,
)
"""What modules refer to and do not store into."""


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """On leaving, the attributes, buffers and parameters of every submodule are what they were, and as they were.

    So are the lists, sets, dictionaries and plain objects that it reaches from there, whatever was stored into them.
    Only what did change is written, so a gradient that is to come still finds the weights it was computed with.
    """
    back: list[Callable[[], None]] = []
    _note(model, set(), back)
    try:
        yield
    finally:
        for each in back:
            each()


def _note(root: Any, seen: set[int], back: list[Callable[[], None]]) -> None:
    """Add what gives back everything that can be reached from an object."""
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, (*_BORROWED, str, bytes, int, float, complex, type(None))):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            _note_tensor(thing, back)
            continue
        if isinstance(thing, dict):
            items = dict(thing)
            back.append(partial(_dictionary, thing, items))
            waiting += items.values()
        elif isinstance(thing, list | set | deque):
            before = list(thing)
            back.append(partial(_collection, thing, before))
            waiting += before
        elif isinstance(thing, tuple | frozenset):
            waiting += thing
        if hasattr(thing, "__dict__"):
            waiting.append(vars(thing))


def _note_tensor(tensor: Tensor, back: list[Callable[[], None]]) -> None:
    if tensor.is_inference() or tensor.is_meta or tensor.layout is not torch.strided:
        return  # nothing can be stored into it, or it is no parameter that a network computes with
    back.append(partial(_tensor, tensor, tensor._version, tensor.detach().clone()))


def _tensor(tensor: Tensor, version: int, before: Tensor) -> None:
    if tensor._version != version:
        with torch.no_grad():
            tensor.copy_(before)


def _same(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _dictionary(thing: dict[Any, Any], before: dict[Any, Any]) -> None:
    if not (_same(list(thing), list(before)) and _same(list(thing.values()), list(before.values()))):
        thing.clear()
        thing.update(before)


def _collection(thing: "list[Any] | set[Any] | deque[Any]", before: list[Any]) -> None:
    if _same(list(thing), before):
        return
    thing.clear()
    if isinstance(thing, set):
        thing.update(before)
    else:
        thing.extend(before)

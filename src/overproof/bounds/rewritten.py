"""Functions of torch that are several simpler ones: written as those when a network is followed."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F


def rewrite(kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any] | None:
    """Return what computes a step as simpler ones, None for a step that is one already."""
    name = str(target) if kind == "call_method" else getattr(target, "__name__", "")
    written = _WRITTEN.get(name) if kind in ("call_function", "call_method") else None
    if written is None or not set(kwargs) <= {"value", "beta", "alpha", "weight"}:
        return None
    count = len(args) + ("weight" in kwargs)
    if count != (2 if name in ("maximum", "minimum") else 3):
        return None
    return lambda: written(*args, **kwargs)


def _addcmul(x: Any, first: Any, second: Any, *, value: float = 1) -> Any:
    product = first * second
    return x + (product if value == 1 else value * product)


def _add_product(x: Any, first: Any, second: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    product = torch.matmul(first, second)
    return (x if beta == 1 else beta * x) + (product if alpha == 1 else alpha * product)


def _lerp(x: Any, other: Any, weight: Any) -> Any:
    return x + weight * (other - x)


_WRITTEN: dict[str, Callable[..., Any]] = {
    "addcmul": _addcmul,
    "addmm": _add_product,
    "baddbmm": _add_product,
    "lerp": _lerp,
    "maximum": lambda x, y: y + F.relu(x - y),
    "minimum": lambda x, y: y - F.relu(y - x),
}

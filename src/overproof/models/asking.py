"""Other people's networks are asked as an evaluation asks them, before it begins: any number of images, undisturbed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from overproof.errors import InputError
from overproof.memory import ran_out
from overproof.models.external.imports import describe_exception, thing
from overproof.models.mode import default_type_kept

BATCHES = (2, 1, 3)  # images: a search goes on with whatever is left, one image or an odd number


def try_batches(ask: Callable[[Tensor], object], image: Tensor, *, where: str) -> Tensor:
    """Ask a network for its logits of one ``image`` ``[C, H, W]`` in batches of two, one and three; return ``[2, K]``.

    Raises ``InputError`` where it fails on one of them, where it does not give a row of floating-point numbers per
    image, as many whatever the batch, and where it changes torch's default type.
    """
    answers = [_answer(ask, image, size, where) for size in BATCHES]
    classes = {int(rows.shape[1]) for rows in answers}
    if len(classes) > 1:
        raise InputError(f"{where}: it returns {' or '.join(map(str, sorted(classes)))} logits, by the batch's size")
    return answers[0]


def ask_once(ask: Callable[[Tensor], object], x: Tensor, *, where: str) -> object:
    """Return what a network gives for images ``[N, C, H, W]``, without gradients.

    Raises ``InputError`` where it raises anything, and where it changes torch's default type.
    """
    try:
        with default_type_kept() as kept, torch.no_grad():
            answer = ask(x)
    except InputError:
        raise
    except Exception as problem:
        if ran_out(problem):
            raise
        raise InputError(f"{where}: given images {list(x.shape)} it raised {describe_exception(problem)}") from problem
    if kept.changed:
        raise InputError(f"{where}: when it is asked it changes torch's default type; leave that out of it")
    return answer


def _answer(ask: Callable[[Tensor], object], image: Tensor, size: int, where: str) -> Tensor:
    x = image.expand(size, *image.shape).clone()
    rows = ask_once(ask, x, where=where)
    if not isinstance(rows, Tensor):
        advice = "its .logits" if hasattr(rows, "logits") else "the logits as one tensor"
        raise InputError(f"{where}: it returned {thing(rows)}; return {advice}")
    if not rows.is_floating_point():
        raise InputError(f"{where}: it returned {rows.dtype} numbers; return floating-point logits")
    if rows.dim() != 2 or len(rows) != size:
        raise InputError(
            f"{where}: given images {list(x.shape)} it returned {list(rows.shape)}; expected one row of logits each"
        )
    return rows


def check_weights_exist(network: nn.Module, *, where: str) -> None:
    """Raise ``InputError`` for a network whose weights are not there yet: on torch's meta device, or uninitialised."""
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(value):
            raise InputError(f"{where}: {name} has no size yet (a lazy layer); call the network once before")
        if value.is_meta:
            raise InputError(f"{where}: {name} has no numbers (it is on torch's meta device); load its weights before")

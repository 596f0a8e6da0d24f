"""Whether a method takes labels that are shares of classes, or needs none: tried on a toy and never typed."""

from functools import cache

import torch
import torch.nn.functional as F

from overproof.data.images import Batch
from overproof.methods.method import Method, Step, Terms
from overproof.models.architectures.mlp import MLP
from overproof.models.classifier import Classifier
from overproof.models.weights import build, freeze
from overproof.signature import Signature

_SIGNATURE = Signature(channels=1, height=4, width=4, classes=3)


@cache
def takes_soft_labels(method: Method) -> bool:
    """Return whether a method, given labels ``[N, K]`` that are all one class's, has the losses of those classes.

    One that reads labels as numbers of classes raises, or has other losses; of one that cannot be tried on a toy nobody
    knows. Leaves torch's random state as it was.
    """
    hard = torch.arange(3)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            terms = _losses(method, hard)
            soft = _losses(method, F.one_hot(hard, 3).float())
        except Exception:  # other people's methods fail in any way
            return False
    # Summed in another order: a few roundings of float32 and what a few steps of a search make of them.
    return all(torch.allclose(soft[name], value, rtol=1e-3, atol=1e-5) for name, value in terms.items())


@cache
def needs_no_labels(method: Method) -> bool:
    """Return whether a method has the same losses for images without a label (-1) as with one.

    One that reads labels raises, or has other losses. Leaves torch's random state as it was.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            terms = _losses(method, torch.arange(3))
            without = _losses(method, torch.full((3,), -1))
        except Exception:  # other people's methods fail in any way
            return False
    return all(torch.equal(without[name], value) for name, value in terms.items())


def _losses(method: Method, y: torch.Tensor) -> Terms:
    """Return the first losses of a batch of three images under these labels."""
    torch.manual_seed(0)
    x = torch.rand(3, 1, 4, 4)
    step = Step(
        x=x,
        y=y,
        student=_network(),
        teachers={role: freeze(_network()) for role in method.roles},
        auxiliary_models={name: _network() for name in method.auxiliary_models},
        state=method.initial_state(Batch(x, torch.arange(3))),
        progress=1.0,
    )
    losses = method.losses(step)
    terms = {name: term.detach() for name, term in next(losses).items()}
    losses.close()  # type: ignore[attr-defined]
    return terms


def _network() -> Classifier:
    return build(MLP(hidden=(5,)), _SIGNATURE).train()

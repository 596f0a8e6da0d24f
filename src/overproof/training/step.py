"""One training step: a method's updates on one batch, as our loop and other trainers take them.

The only place in the project that calls ``backward`` and an optimiser's ``step``.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from overproof.data.draws import drawing, seed_at
from overproof.errors import AgreedError
from overproof.methods.method import Method, Step, Terms
from overproof.models.external.imports import thing
from overproof.training.optimisation import Training

Ask = Callable[[Iterator[Terms]], Terms | None]
"""Returns the next losses, None where there are no more."""


def differentiate(loss: Tensor) -> None:
    """Add the gradient of a scalar to what it depends on."""
    loss.backward()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in a run a step is: batch ``batch`` of the ``batches`` of epoch ``epoch`` (from 0) of ``epochs``."""

    epoch: int
    batch: int
    batches: int
    epochs: int

    @property
    def progress(self) -> float:
        """Return 0 at the first batch of the run, 1 at the last."""
        return (self.epoch * self.batches + self.batch) / max(1, self.epochs * self.batches - 1)

    def at(self, share: float) -> float:
        """Return the fractional epoch at which a ``share`` of the batch's updates has been taken."""
        return self.epoch + (self.batch + share) / self.batches


@dataclass(frozen=True, kw_only=True)
class Updates:
    """How losses become updates.

    ``gradient`` leaves that of a scalar on what learns, and ``clip`` bounds it to a norm. ``ask`` fetches the
    next losses (a wrapper that synchronises gradients sees them), in the ``precision`` of the training. Where
    ``training`` is None the learning rate and the gradient are left alone.
    """

    optimiser: torch.optim.Optimizer
    training: Training | None
    clip: Callable[[float], object]
    gradient: Callable[[Tensor], object] = differentiate
    ask: Ask = lambda losses: next(losses, None)
    precision: Callable[[], AbstractContextManager[object]] = nullcontext

    def taken(self, method: Method, step: Step, place: Place, seed: int) -> Iterator[Terms]:
        """Take all of a method's updates on one batch; yield the terms of each after it was taken.

        Seeds torch's global generator first, because each draw is a function of (seed, epoch, batch). Raises
        ``InputError`` for a method that yields more or fewer losses than the updates it declares, or no terms.
        """
        torch.manual_seed(seed_at(seed, "step", place.epoch, place.batch))
        losses, updates = method.losses(step), method.updates
        if not isinstance(losses, Iterator):
            raise AgreedError(f"method {method.kind!r}: losses returns {thing(losses)}; it must yield its terms")
        for update in range(updates):
            terms = self._next(losses, step)
            if terms is None:
                raise AgreedError(
                    f"method {method.kind!r} yielded losses {_times(update)} for a batch, and its updates are "
                    f"{updates}: it must yield that often"
                )
            check_terms(terms, method)
            if self.training is not None:
                set_learning_rate(self.optimiser, self.training.learning_rate(place.at(update / updates)))
            self.optimiser.zero_grad(set_to_none=True)
            self.gradient(total(terms, step.part.share))
            if self.training is not None and self.training.clip:
                self.clip(self.training.clip)
            self.optimiser.step()
            yield terms
        if self._next(losses, step, last=True) is not None:
            raise AgreedError(
                f"method {method.kind!r} yields losses more often for a batch than its updates, {updates}, say; "
                "yield one dictionary with all terms, or override updates"
            )

    def _next(self, losses: Iterator[Terms], step: Step, *, last: bool = False) -> Terms | None:
        with self.precision(), drawing(step.part):
            # A wrapper would wait for the backward pass of what a method does after its last losses.
            return next(losses, None) if last else self.ask(losses)


def check_terms(terms: object, method: Method) -> None:
    """Raise ``InputError`` unless a method yielded named scalars with a gradient, one at least."""
    where = f"method {method.kind!r}"
    if not isinstance(terms, dict) or not terms or not all(isinstance(name, str) for name in terms):
        what = "an empty dictionary" if terms == {} else thing(terms)
        raise AgreedError(
            f"{where} yielded {what}; it must yield a dictionary of named terms, such as {{'label': loss}}"
        )
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.shape != ():
            what = f"a tensor of shape {list(term.shape)}" if isinstance(term, Tensor) else thing(term)
            raise AgreedError(f"{where}: its term {name!r} is {what}; a term is a scalar tensor, as mean() makes it")
    if not any(term.requires_grad for term in terms.values()):
        raise AgreedError(
            f"{where}: no gradient leads from its terms ({', '.join(terms)}) to the weights of the student"
        )


def _times(count: int) -> str:
    return {0: "not at all", 1: "once"}.get(count, f"{count} times")


def total(terms: Terms, share: float = 1.0) -> Tensor:
    """Return the scalar to descend.

    ``share`` weighs a process's means, so that the mean of all processes' gradients is the whole batch's.
    """
    loss = torch.stack(list(terms.values())).sum()
    return loss if share == 1 else loss * share


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate, which is ``rate`` times the group's own factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)

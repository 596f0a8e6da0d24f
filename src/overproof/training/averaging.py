"""Averages of the weights along the run, and BatchNorm statistics measured again for them."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from overproof.data.images import Batch
from overproof.models.batchnorm import least_batch
from overproof.models.classifier import Classifier
from overproof.models.mode import frozen_layers, in_mode, train_unfrozen

Moment = Literal["update", "epoch"]


@dataclass(frozen=True, kw_only=True)
class EMA:
    """Exponential moving average after every update; the effective decay rises as ``(1 + n) / (10 + n)`` up to it.

    Until the share ``warmup`` of the run the average is the newest network (0.025 in Wang et al., ICML 2023).
    """

    kind: Literal["ema"] = "ema"
    decay: float = 0.999
    warmup: float = 0.0
    moment: ClassVar[Moment] = "update"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {self.decay}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of the run, in [0, 1), got {self.warmup}")

    def share(self, count: int, progress: float) -> float:
        """Return the weight of the newest network, when ``count`` networks are in the average."""
        return 1 - min(self.decay, (1 + count) / (10 + count)) if self.counts(progress) else 1.0

    def counts(self, progress: float) -> bool:
        """Whether the average remembers a network taken here: from ``warmup`` on."""
        return progress >= self.warmup


@dataclass(frozen=True, kw_only=True)
class SWA:
    """Stochastic weight averaging (Izmailov et al. 2018): equal weights, one network per epoch from ``start`` on.

    ``start`` is a share of the run; until then the average is the newest network.
    """

    kind: Literal["swa"] = "swa"
    start: float = 0.5
    moment: ClassVar[Moment] = "epoch"

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise ValueError(f"start is a share of the run, in [0, 1), got {self.start}")

    def share(self, count: int, progress: float) -> float:
        """Return the weight of the newest network, when ``count`` networks are in the average."""
        return 1 / (count + 1) if self.counts(progress) else 1.0

    def counts(self, progress: float) -> bool:
        """Whether the average remembers a network taken here: from ``start`` on."""
        return progress >= self.start


class Average:
    """The running average of a student's parameters under a rule; its whole state is ``state()``."""

    def __init__(self, rule: EMA | SWA, student: nn.Module) -> None:
        self.rule = rule
        self.count = 0
        self.parameters = {name: value.detach().clone() for name, value in student.named_parameters()}

    @torch.no_grad()
    def take(self, moment: Moment, student: nn.Module, progress: float) -> None:
        """Mix the student in, if this is the rule's moment; ``progress`` is the share of the run done."""
        if moment != self.rule.moment:
            return
        share = self.rule.share(self.count, progress)
        self.count = self.count + 1 if self.rule.counts(progress) else 0
        torch._foreach_lerp_(list(self.parameters.values()), [value.detach() for value in student.parameters()], share)

    def network(self, student: Classifier, training: Iterable[Batch]) -> Classifier:
        """Return a copy of the student with the averaged parameters and BatchNorm statistics of the training images."""
        averaged = deepcopy(student)
        averaged.load_state_dict(self.parameters, strict=False)
        reestimate_batchnorm(averaged, training)
        return averaged

    def state(self) -> dict[str, Tensor]:
        """Return everything it remembers as a flat dictionary of tensors."""
        return {"count": torch.tensor(self.count), **self.parameters}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what ``state()`` returned."""
        self.count = int(state["count"])
        for name, value in self.parameters.items():
            value.copy_(state[name])


@torch.no_grad()
def reestimate_batchnorm(model: Classifier, batches: Iterable[Batch]) -> None:
    """Replace every BatchNorm's running statistics by their plain mean over these batches, in place.

    Layers that do not learn keep theirs, and normalise by them meanwhile.
    """
    frozen = frozen_layers(model)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    layers = [norm for norm in norms if norm not in frozen]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's spelling of a cumulative mean
    with in_mode(model, training=True):
        train_unfrozen(model)
        for batch in batches:
            if len(batch.y) > 1 or least_batch(model) == 1:  # the last one may be of one image
                model(batch.x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum

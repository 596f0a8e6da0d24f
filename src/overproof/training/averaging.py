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
Statistics = Literal["averaged", "copied", "measured"]
"""BatchNorm's in an average: as the weights are, copied from the newest network, or measured on clean images."""

_STATISTICS = (".running_mean", ".running_var")


@dataclass(frozen=True, kw_only=True)
class EMA:
    """Exponential moving average after every update; the effective decay rises as ``(1 + n) / (10 + n)`` up to it.

    Until the share ``warmup`` of the run the average is the newest network (0.025 in Wang et al., ICML 2023).
    ``batchnorm`` statistics are ``averaged`` as the weights are: they are of the images that the method shows in train
    mode, attacked ones too. ``copied`` from the newest network, as Wang et al. have them, they do not fit an average
    that lags far behind. ``measured`` on clean images they are not those that an adversarially trained network knows:
    a ResNet-8 of double width trained by TRADES on Fashion-MNIST lost 20 points of robust accuracy by that (see the
    decisions page).
    """

    kind: Literal["ema"] = "ema"
    decay: float = 0.999
    warmup: float = 0.0
    batchnorm: Statistics = "averaged"
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

    ``start`` is a share of the run; until then the average is the newest network. ``batchnorm`` statistics are
    ``measured`` on clean training images, as in the published codes; ``copied`` are those of the newest network.
    """

    kind: Literal["swa"] = "swa"
    start: float = 0.5
    batchnorm: Statistics = "measured"
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
    """The running average of a student's parameters under a rule; its whole state is ``state()``.

    ``parameters`` hold BatchNorm's statistics too where the rule averages them.
    """

    def __init__(self, rule: EMA | SWA, student: nn.Module) -> None:
        self.rule = rule
        self.count = 0
        self.parameters = {name: value.detach().clone() for name, value in self._averaged(student).items()}

    @torch.no_grad()
    def take(self, moment: Moment, student: nn.Module, progress: float) -> None:
        """Mix the student in, if this is the rule's moment; ``progress`` is the share of the run done."""
        if moment != self.rule.moment:
            return
        share = self.rule.share(self.count, progress)
        self.count = self.count + 1 if self.rule.counts(progress) else 0
        newest = [value.detach() for value in self._averaged(student).values()]
        torch._foreach_lerp_(list(self.parameters.values()), newest, share)

    def network(self, student: Classifier, training: Iterable[Batch]) -> Classifier:
        """Return a copy of the student with the averaged parameters, and BatchNorm statistics as the rule has them.

        ``training`` are the images that they may be measured on.
        """
        averaged = deepcopy(student)
        averaged.load_state_dict(self.parameters, strict=False)
        if self.rule.batchnorm == "measured":
            reestimate_batchnorm(averaged, training)
        return averaged

    @property
    def statistics(self) -> list[Tensor]:
        """BatchNorm's statistics in the average; none where the rule does not average them."""
        return [value for name, value in self.parameters.items() if name.endswith(_STATISTICS)]

    def _averaged(self, student: nn.Module) -> dict[str, Tensor]:
        """Return what of the student is averaged, by its names."""
        averaged: dict[str, Tensor] = dict(student.named_parameters())
        if self.rule.batchnorm == "averaged":
            averaged |= {name: value for name, value in student.named_buffers() if name.endswith(_STATISTICS)}
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

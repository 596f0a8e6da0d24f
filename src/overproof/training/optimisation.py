"""How weights move: optimiser, learning-rate schedule as a pure function of the epoch, and the run's length."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from overproof.models.precision import computes_bf16
from overproof.training.averaging import EMA, SWA


class Schedule(ABC):
    """A factor on the learning rate; subclasses are keyword-only frozen dataclasses with a ``kind``."""

    kind: str

    @abstractmethod
    def factor(self, epoch: float, epochs: int) -> float:
        """Return the factor at a fractional epoch of a run of ``epochs``, at least 0."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """Always 1."""

    kind: Literal["constant"] = "constant"

    def factor(self, epoch: float, epochs: int) -> float:
        """Return 1."""
        del epoch, epochs
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Multistep(Schedule):
    """Times ``gamma`` from each milestone (an epoch) on."""

    kind: Literal["multistep"] = "multistep"
    milestones: tuple[float, ...] = (100, 150)
    gamma: float = 0.1

    def factor(self, epoch: float, epochs: int) -> float:
        """Return ``gamma`` to the number of milestones passed."""
        del epochs
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine from 1 to ``floor``."""

    kind: Literal["cosine"] = "cosine"
    floor: float = 0.0

    def factor(self, epoch: float, epochs: int) -> float:
        """Return the height of the half cosine."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(epoch / epochs, 1))) / 2


@dataclass(frozen=True, kw_only=True)
class Triangular(Schedule):
    """Linear from 0 to 1 at the share ``peak`` of the run, then linear to 0 (one cycle)."""

    kind: Literal["triangular"] = "triangular"
    peak: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.peak < 1:
            raise ValueError(f"peak is a share of the run, between 0 and 1, got {self.peak}")

    def factor(self, epoch: float, epochs: int) -> float:
        """Return the height of the triangle."""
        share = min(epoch / epochs, 1)
        return share / self.peak if share < self.peak else (1 - share) / (1 - self.peak)


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """One cycle as in torch's ``OneCycleLR``: up to 1 at the share ``pct_start`` of the run, then down to nearly 0.

    It begins at ``1 / div_factor`` and ends at that divided by ``final_div_factor``; both ways are half cosines, or
    lines. Momentum does not change. Wang et al. (ICML 2023) use ``pct_start`` 0.025.
    """

    kind: Literal["one_cycle"] = "one_cycle"
    pct_start: float = 0.3
    anneal: Literal["cosine", "linear"] = "cosine"
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        if not 0 < self.pct_start < 1:
            raise ValueError(f"pct_start is a share of the run, between 0 and 1, got {self.pct_start}")
        if not self.div_factor >= 1 or not self.final_div_factor >= 1:
            raise ValueError(
                "div_factor and final_div_factor divide the highest rate and must be at least 1, got "
                f"{self.div_factor} and {self.final_div_factor}"
            )

    def factor(self, epoch: float, epochs: int) -> float:
        """Return the height of the cycle."""
        share = min(epoch / epochs, 1)
        first = 1 / self.div_factor
        if share < self.pct_start:
            return self._between(first, 1, share / self.pct_start)
        return self._between(1, first / self.final_div_factor, (share - self.pct_start) / (1 - self.pct_start))

    def _between(self, start: float, end: float, share: float) -> float:
        return start + (end - start) * (share if self.anneal == "linear" else (1 - math.cos(math.pi * share)) / 2)


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum; weight decay on every parameter, as in the papers."""

    kind: Literal["sgd"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check_not_negative(self.lr, self.weight_decay)
        if not 0 <= self.momentum < 1 or (self.nesterov and not self.momentum):
            raise ValueError(f"momentum must be in [0, 1), and above 0 for nesterov, got {self.momentum}")

    def build(self, parameters: Iterable[nn.Parameter] | list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimiser over these parameters."""
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            fused=True,
        )


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    kind: Literal["adamw"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        _check_not_negative(self.lr, self.weight_decay)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")

    def build(self, parameters: Iterable[nn.Parameter] | list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimiser over these parameters."""
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, betas=self.betas, fused=True)


def _check_not_negative(lr: float, weight_decay: float) -> None:
    if lr < 0 or weight_decay < 0:
        raise ValueError(f"lr and weight_decay cannot be negative, got {lr} and {weight_decay}")


@dataclass(frozen=True, kw_only=True)
class Training:
    """The recipe's ``training`` node: length, batch, optimiser, schedule, averaging, precision.

    ``warmup`` is a number of epochs of linear rise. ``clip`` bounds the gradient's l2 norm (0: off). ``precision``:
    ``auto`` is bf16 autocast where the device computes bf16 natively and the student has convolutions wide enough to
    gain from it, else fp32. ``teacher_precision`` is the student's, unless it says otherwise (``auto`` looks at the
    teacher). ``teacher_cache`` keeps the teachers' answers to unattacked images, one per image and draw of
    ``augment.bank``. ``checkpoint_minutes`` bounds what a crash inside a long epoch can lose.

    ``freeze`` and ``learning_rates`` (a factor on the learning rate each) name parameters by patterns such as
    ``layer1.*`` or ``*.bias``; a parameter has the first factor whose pattern is its own. A layer whose parameters are
    all frozen stays in eval mode, so that BatchNorm keeps its statistics.

    ``balance`` shows images of rare classes more often, as many in all as there are: of 0 none, of 1 every class
    equally often, between them a class of n images in proportion to n to the power of 1 - ``balance``.
    """

    epochs: int = 100
    batch: int = 128
    optimiser: SGD | AdamW = field(default_factory=SGD)
    schedule: Constant | Multistep | Cosine | Triangular | OneCycle = field(default_factory=Cosine)
    warmup: float = 0.0
    averaging: EMA | SWA | None = None
    clip: float = 0.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    teacher_precision: Literal["student", "auto", "fp32", "bf16"] = "student"
    teacher_cache: bool = False
    checkpoint_minutes: float = 10.0
    freeze: tuple[str, ...] = ()
    learning_rates: dict[str, float] = field(default_factory=dict)
    balance: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise ValueError(f"epochs and batch must be at least 1, got {self.epochs} and {self.batch}")
        if self.clip < 0 or self.warmup < 0:
            raise ValueError(f"clip and warmup cannot be negative, got {self.clip} and {self.warmup}")
        if not 0 <= self.balance <= 1:
            raise ValueError(
                f"balance is from 0 (as the data are) to 1 (all classes equally often), got {self.balance}"
            )
        for pattern, factor in self.learning_rates.items():
            if factor < 0:
                raise ValueError(f"learning_rates: {pattern} cannot be negative, got {factor}")

    def on(self, device: torch.device) -> "Training":
        """Return what this device can do of it: fp32 in the place of bf16 where bf16 is not computed natively."""
        if computes_bf16(device):
            return self
        return replace(
            self,
            precision="fp32" if self.precision == "bf16" else self.precision,
            teacher_precision="fp32" if self.teacher_precision == "bf16" else self.teacher_precision,
        )

    def learning_rate(self, epoch: float) -> float:
        """Return the learning rate at a fractional epoch: base times schedule times warm-up."""
        rise = min(1.0, epoch / self.warmup) if self.warmup else 1.0
        return self.optimiser.lr * self.schedule.factor(epoch, self.epochs) * rise

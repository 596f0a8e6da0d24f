"""Randomised smoothing: an l2 certificate for networks too large for bounds (Cohen, Rosenfeld and Kolter 2019).

The smoothed classifier answers what the network answers most often under Gaussian noise. Where that class has a
probability ``p > 1/2``, it stays the answer at every distance below ``sigma * Phi^-1(p)`` (theorem 1, ``p_B = 1 - p``).
``p`` is bounded from below by counting draws (their CERTIFY), so a certificate is wrong with probability ``alpha`` at
most. It speaks of the smoothed classifier, not of the network, and of exact noise, to which float32 draws come near.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from time import monotonic
from typing import Any, Literal

import torch
from torch import Tensor, nn

from overproof.data.draws import generator_at
from overproof.errors import InputError
from overproof.evaluation.state import ExampleResults
from overproof.models.mode import in_mode
from overproof.statistics import Proportion

Outcome = Literal["abstained", "wrong", "too_small", "certified"]
"""Of an example at a radius: ``too_small`` is the right class, but certified within a smaller radius only."""
_OUTCOMES: tuple[Outcome, ...] = ("abstained", "wrong", "too_small", "certified")


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """Noise of standard deviation ``sigma`` in pixel space, and how it is sampled.

    ``selection`` draws choose the class, ``samples`` others count how often it comes; ``alpha`` is the probability that
    a certificate may be wrong. ``batch`` draws are in one pass: it changes time and memory, not the noise.
    """

    sigma: float
    selection: int = 100
    samples: int = 10_000
    alpha: float = 0.001
    batch: int = 500

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma is the standard deviation of the noise, positive and finite, got {self.sigma}")
        for name in ("selection", "samples", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is a number of noisy images, at least 1, got {getattr(self, name)}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is the probability of a wrong certificate, in (0, 1), got {self.alpha}")

    def radius(self, votes: Tensor) -> Tensor:
        """Return the l2 radius certified by so many ``votes`` of the samples, float64 ``[N]``; 0 is an abstention."""
        from scipy.stats import norm

        lower = clopper_pearson(votes, self.samples, self.alpha)
        return torch.where(lower > 0.5, self.sigma * torch.from_numpy(norm.ppf(lower.numpy())), 0.0)

    @property
    def largest(self) -> float:
        """The radius where all samples agree, ``sigma * Phi^-1(alpha ** (1 / samples))``: none can be larger."""
        return float(self.radius(torch.tensor([self.samples])))

    def needed(self, eps: float) -> int | None:
        """Return the least n with ``alpha ** (1 / n) > Phi(eps / sigma)``; None where a float cannot hold it."""
        from scipy.stats import norm

        log_probability = float(norm.logcdf(eps / self.sigma))
        fewest = math.log(self.alpha) / log_probability if log_probability else math.inf
        return None if math.isinf(fewest) else math.floor(fewest) + 1

    def check(self, eps: float) -> None:
        """Raise ``InputError`` where no outcome could certify ``eps``; worth asking before the first draw."""
        if not 0 <= eps < math.inf:
            raise InputError(f"eps is an l2 radius in pixel space, 0 or more and finite, got {eps}")
        if eps >= self.largest:
            fewest = self.needed(eps)
            cure = "a larger sigma" if fewest is None else f"at least {fewest:,} samples or a larger sigma"
            raise InputError(
                f"{self.samples:,} samples at alpha {self.alpha:g} and sigma {self.sigma:g} certify no l2 radius above "
                f"{self.largest:.4g} even where all of them agree; eps {eps:g} needs {cure}"
            )


def clopper_pearson(passed: Tensor, of: int, alpha: float) -> Tensor:
    """Return lower bounds on the probability of what happened ``passed`` times ``of`` so many, float64 ``[N]``.

    One-sided (Clopper and Pearson 1934): at the bound, ``passed`` or more would come with probability ``alpha``, so it
    exceeds the true probability, whatever that is, with probability at most ``alpha``.
    """
    from scipy.stats import beta

    count = passed.cpu().double()
    quantile = torch.from_numpy(beta.ppf(alpha, count.numpy(), (of - count + 1).numpy()))
    return torch.where(count > 0, quantile, 0.0)  # without a single one, the quantile is not defined


@dataclass(frozen=True, eq=False)
class Smoothed(ExampleResults):
    """What the draws said of N examples, from which every figure follows.

    The state holds, int64 ``[N]``: ``index``, the place in the whole set, ``label``, ``selected``, the class chosen,
    and ``votes``, how many samples gave that class; and ``seconds``, that all took.
    """

    smoothing: Smoothing

    @cached_property
    def lower(self) -> Tensor:
        """Lower confidence bounds on the probability of the selected class, float64 ``[N]``."""
        return clopper_pearson(self.state["votes"], self.smoothing.samples, self.smoothing.alpha)

    @cached_property
    def radius(self) -> Tensor:
        """Certified l2 radii, float64 ``[N]``: the prediction is the same at every smaller distance; 0: abstained."""
        return self.smoothing.radius(self.state["votes"])

    @property
    def prediction(self) -> Tensor:
        """The classes the smoothed classifier predicts, int64 ``[N]``; -1 where it abstains."""
        return torch.where(self.radius > 0, self.state["selected"], -1)

    def outcomes(self, eps: float) -> list[Outcome]:
        """Return what became of each example within l2 ``eps``; at 0 all right answers are certified."""
        self.smoothing.check(eps)
        answered = torch.where(self.state["selected"] != self.state["label"], 1, torch.where(self.radius > eps, 3, 2))
        return [_OUTCOMES[code] for code in torch.where(self.radius > 0, answered, 0).tolist()]

    def evidence(self, eps: float) -> Proportion:
        """Return how many examples are certified at ``eps``; evidence from disjoint shards adds up."""
        setting, outcomes = self.smoothing, self.outcomes(eps)
        claim = f"certified within l2 {eps:g} by smoothing with sigma {setting.sigma:g}, alpha {setting.alpha:g} each"
        return Proportion(
            claim=claim,
            passed=outcomes.count("certified"),
            of=len(outcomes),
            seconds=float(self.state["seconds"].sum()),
        )

    def columns(self) -> dict[str, list[Any]]:
        """Return the votes and the radius of each example; the prediction is None where the classifier abstains."""
        return {
            "index": self.state["index"].tolist(),
            "label": self.state["label"].tolist(),
            "prediction": [None if index < 0 else index for index in self.prediction.tolist()],
            "votes": self.state["votes"].tolist(),
            "lower": self.lower.tolist(),
            "radius": self.radius.tolist(),
        }

    def at(self, eps: float) -> list[dict[str, Any]]:
        """Return one record per example, with its outcome within l2 ``eps``."""
        return [one | {"verdict": outcome} for one, outcome in zip(self.records(), self.outcomes(eps), strict=True)]


def smooth(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    smoothing: Smoothing,
    *,
    seed: int = 0,
    indices: Sequence[int] | None = None,
) -> Smoothed:
    """Sample the smoothed classifier on images ``[N, C, H, W]`` in [0, 1] with labels ``[N]``, on the model's device.

    ``indices`` are the examples' places in the whole set, 0 to N - 1 unless given. The noise is a function of the seed
    and the place, and a pass holds draws of one example only, so shards find what one process would. Raises
    ``InputError`` for images, labels or outputs that cannot be used, and where the samples could certify nothing.
    """
    if images.dim() != 4 or not images.is_floating_point() or not ((images >= 0) & (images <= 1)).all():
        raise InputError(f"expected float images [N, C, H, W] in [0, 1], got {images.dtype} {tuple(images.shape)}")
    if labels is None or labels.shape != images.shape[:1] or (labels < 0).any():
        raise InputError(f"a certificate needs the label of each image, 0 or more, for all of the {len(images)}")
    smoothing.check(0.0)
    places = range(len(images)) if indices is None else map(int, indices)
    start, outcomes = monotonic(), []
    with in_mode(model, training=False), torch.no_grad():
        for image, index in zip(images, places, strict=True):
            # Other draws count than those that chose the class, which would flatter it.
            choosing = generator_at(images.device, seed, "smoothing", index, "selection")
            counting = generator_at(images.device, seed, "smoothing", index, "samples")
            chosen = _votes(model, image, smoothing.selection, smoothing, choosing)
            if (labels >= len(chosen)).any():
                raise InputError(f"label {int(labels.max())} is outside 0..{len(chosen) - 1}, the network's classes")
            selected = int(chosen.argmax())
            votes = _votes(model, image, smoothing.samples, smoothing, counting)
            outcomes.append((index, selected, int(votes[selected])))
    rows = torch.tensor(outcomes, dtype=torch.int64).reshape(-1, 3).T
    seconds = torch.tensor([monotonic() - start], dtype=torch.float64)
    state = {"index": rows[0], "label": labels.long().cpu(), "selected": rows[1], "votes": rows[2], "seconds": seconds}
    return Smoothed(state, smoothing)


def _votes(model: nn.Module, image: Tensor, draws: int, smoothing: Smoothing, generator: torch.Generator) -> Tensor:
    """Return how many draws of noise around ``image`` ``[C, H, W]`` give each class, int64 ``[K]``."""
    ballots = []
    for begin in range(0, draws, smoothing.batch):
        noise = torch.empty(min(smoothing.batch, draws - begin), *image.shape, dtype=image.dtype, device=image.device)
        for draw in noise:  # one by one: asked for more at once, a generator gives other numbers
            draw.normal_(generator=generator)
        # Not clipped to [0, 1]: a clip would be one more layer, and it is the given network that is smoothed.
        logits = model(image + smoothing.sigma * noise)
        if not logits.isfinite().all():
            raise InputError("the network's outputs are not finite (NaN or infinite) under the noise")
        top = logits == logits.amax(dim=1, keepdim=True)
        # Where classes tie, a draw votes for none of them; which of them comes first would prove nothing.
        ballots.append((top & (top.sum(dim=1, keepdim=True) == 1)).sum(dim=0))
    return torch.stack(ballots).sum(dim=0)

"""Cheap experiments on a network that tell a robust one from one that hides its gradients.

The symptoms are those of Athalye et al. (2018), section 3.1, and Carlini et al. (2019), sections 4 and 5.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn

from overproof.attacks.ball import Ball, Radius, Threat, ball
from overproof.attacks.objectives import Score, as_objective
from overproof.attacks.pgd import PGD
from overproof.data.draws import seed_at
from overproof.errors import InputError
from overproof.evaluation.check import Check, Level
from overproof.functional import cross_entropy, margin
from overproof.models.classifier import Classifier
from overproof.statistics import Proportion

EXAMPLES = 128
"""How many examples are probed at most; a share of 0.5 is then known to 9 points."""
SUSPECT, FAIL = 0.05, 0.5
"""A share of examples is suspect above the first and a failure above the second, its Wilson interval wholly so."""

_REPEATED = 1e-5  # a repeated pass gives the same bits, but for sums on a GPU that change their order
_REGROUPED = 1e-3  # in another batch other kernels run: 1e-6 in float32, more in TF32
_VANISHED = 1e-30  # 69 logits ahead: float32 ends at 1e-38, and the factors of the layers are still to come
_HAIR = 1e-6  # from 0 or 1 into the box: far less than a network tells apart
_FEW = 3  # one or two examples are an accident
_STEPS, _RESTARTS, _DRAWS, _PAIRS = 10, 5, 100, 16


@dataclass(frozen=True, eq=False)
class _Subject:
    """A network in the mode its owner left it in, and correctly classified examples."""

    model: Classifier
    x: Tensor
    y: Tensor
    threat: Threat
    seed: int

    def worse(self, x: Tensor) -> Tensor:
        """Return minus the margin, ``[N]``: above 0 where the network is wrong."""
        return -margin(self.model(x), self.y) + _nothing(x)

    def costlier(self, x: Tensor) -> Tensor:
        """Return the cross-entropy, ``[N]``."""
        return cross_entropy(self.model(x), self.y) + _nothing(x)

    def at(self, keep: Tensor) -> "_Subject":
        return _Subject(self.model, self.x[keep], self.y[keep], self.threat, self.seed)

    def stands(self, x: Tensor) -> Tensor:
        """Return who is right about these images, bool ``[N]``; an image that is not finite is none."""
        with torch.no_grad():
            right: Tensor = self.model(x).argmax(dim=1) == self.y
        return right | ~x.isfinite().flatten(1).all(dim=1)

    def survives(self, attack: PGD, score: Score) -> Tensor:
        """Return who stands after a search on the score, bool ``[N]``."""
        if not len(self.y):
            return torch.zeros_like(self.y, dtype=torch.bool)
        torch.manual_seed(seed_at(self.seed, "reliability", "search"))
        return self.stands(attack(self.model, self.x, score))


def probe(model: Classifier, x: Tensor, y: Tensor, threat: Threat, *, seed: int, gradients: bool = True) -> list[Check]:
    """Examine a network on at most 128 correctly classified examples of pixels ``x`` ``[N, C, H, W]``, labels ``[N]``.

    The network is examined as its owner left it, in the mode in which he measures its accuracy; afterwards buffers and
    random states are as before. Compute in full precision: bf16 alone makes logits depend on their batch. Costs at most
    112 forward and backward passes over all examples, 160 more and 100 forward ones over those that the short search
    does not break. ``gradients=False`` leaves those passes out, for a file whose gradients are absent and not hidden:
    what is left are determinism and the rest of the batch. Raises ``InputError`` without examples or where there are
    not as many labels.
    """
    if not len(x) or y.shape != x.shape[:1]:
        raise InputError(f"a probe needs images and as many labels, got {list(x.shape)} and {list(y.shape)}")
    with _unchanged(model, x.device):
        torch.manual_seed(seed_at(seed, "reliability"))
        shown = x[:EXAMPLES].detach()
        determinism = _determinism(model, shown)
        checks = [determinism, _batch_composition(model, shown, determinism.figures["change"])]
        if not gradients:
            return checks
        correct = _correct(model, x.detach(), y, threat, seed)
        if not len(correct.y):
            return [*checks, _nothing_to_attack(len(x))]
        return [*checks, *_gradients(correct), _ends(correct), _linearity(correct), *_searches(correct)]


# --- the network alone ------------------------------------------------------------------------------------------------


def _determinism(model: nn.Module, x: Tensor) -> Check:
    """Show the same batch again: a random layer must be averaged over by the attack (Athalye et al. 2018)."""
    with torch.no_grad():
        first = model(x)
        change = _change(first, *(model(x) for _ in range(4)))
    return Check(
        name="determinism",
        level="fine" if change <= _REPEATED else "fail",
        finding=f"logits of the same batch differ between passes by {change:.1e} of their spread",
        figures={"change": change, "tolerance": _REPEATED},
    )


def _batch_composition(model: nn.Module, x: Tensor, noise: float) -> Check:
    """Show images in other company: a verdict that hangs on the rest of the batch is none about the image.

    Pairs instead of single images, since BatchNorm in train mode refuses a single one after a linear layer. A change of
    at most twice the ``noise`` between equal passes is not the batch's doing.
    """
    tolerance = max(_REGROUPED, 2 * noise)
    with torch.no_grad():
        pairs = [model(torch.stack([1 - image, image]))[1:] for image in x[:_PAIRS]]
        change = _change(model(x), model(x.flip(0)).flip(0), torch.cat(pairs))
    return Check(
        name="batch composition",
        level="fine" if change <= tolerance else "fail",
        finding=f"logits of an image change with the rest of its batch by {change:.1e} of their spread",
        figures={"change": change, "tolerance": tolerance},
    )


def _gradients(subject: _Subject) -> list[Check]:
    """Look for gradients that are zero or not finite, and for a cross-entropy that hides the margin's.

    The gradient of cross-entropy is at most ``1 - p_y`` times that of the largest logit difference. Scaled logits
    drive ``1 - p_y`` to 0, in float32 exactly (Carlini and Wagner 2017 on defensive distillation).
    """
    of_margin = _steepness(subject.x, subject.worse)
    of_entropy = _steepness(subject.x, subject.costlier)
    useful = of_margin.isfinite() & (of_margin > 0)
    lost = useful & ~(of_entropy > _VANISHED * of_margin)
    none = Proportion(claim="no gradient", passed=int((~useful).sum()), of=len(useful))
    hidden = Proportion(claim="hidden by the softmax", passed=int(lost.sum()), of=int(useful.sum()))
    return [
        Check(
            name="gradients",
            level=_level(none),
            finding=f"{none.passed} of {none.of} images have an input gradient that is zero or not finite",
            figures={"share": none.share},
        ),
        Check(
            name="logit scale",
            level=_level(hidden),
            finding=f"the softmax hides the gradient of {hidden.passed} of {hidden.of} images from cross-entropy",
            figures={"share": hidden.share},
        ),
    ]


def _ends(subject: _Subject) -> Check:
    """Look at pixels of exactly 0 or 1, and a hair inside: a clamp before the network has no gradient at its ends.

    So it is from torch 2.14 on. Searches come to these ends all the time, and could never leave them again.
    """
    ends = (subject.x == 0) | (subject.x == 1)
    at, beside = (
        (as_objective(subject.worse).ascend(z)[1].abs() * ends).flatten(1).amax(dim=1)
        for z in (subject.x, subject.x.clamp(_HAIR, 1 - _HAIR))
    )
    lost = Proportion(
        claim="lost", passed=int(((at == 0) & (beside > 0)).sum()), of=int(ends.flatten(1).any(dim=1).sum())
    )
    return Check(
        name="ends",
        level=_level(lost),
        finding=(
            f"{lost.passed} of {lost.of} images have no gradient at pixels of exactly 0 or 1, but one beside them, as "
            f"behind a clamp: leave it out, attacks stay in [0, 1] by themselves"
        ),
        figures={"share": lost.share},
    )


def _linearity(subject: _Subject) -> Check:
    """Take a small step along the gradient: does the score rise as the gradient promises?

    Counted are images whose score rises by less than a tenth of it within a tenth of the radius.
    """
    score, gradient = as_objective(subject.worse).ascend(subject.x)
    area = ball(subject.threat.norm, subject.threat.eps / 10)
    step = area.project(subject.x + area.eps * area.steepest(gradient), subject.x) - subject.x
    promised = (gradient * step).flatten(1).sum(dim=1)
    with torch.no_grad():
        risen = subject.worse(subject.x + step) - score
    moved = promised > 0
    false = moved & ~(risen > promised / 10)
    misled = Proportion(claim="misled", passed=int(false.sum()), of=int(moved.sum()))
    return Check(
        name="linearity",
        level=_level(misled),
        finding=f"on {misled.passed} of {misled.of} images a small step along the gradient breaks its promise",
        figures={"share": misled.share},
    )


# --- searches ---------------------------------------------------------------------------------------------------------


def _searches(subject: _Subject) -> list[Check]:
    """Search at growing radii, then harder, then without gradients."""
    norm, eps, most = subject.threat.norm, subject.threat.eps, _diameter(subject)
    radii = [radius for radius in (eps / 2, eps, 2 * eps, 4 * eps) if radius < most]
    alive = {radius: _attack(subject, radius) for radius in (*radii, most)}
    at_eps = alive.get(eps, alive[most])
    left = subject.at(at_eps)
    longer = PGD(norm=norm, eps=eps, steps=10 * _STEPS, best=True, mode="train")
    again = PGD(norm=norm, eps=eps, steps=_STEPS, restarts=_RESTARTS, best=True, mode="train")
    return [
        _large_eps(alive[most], most),
        _monotone(alive),
        _check_convergence("steps", f"{10 * _STEPS} steps instead of {_STEPS}", left, longer, len(at_eps)),
        _check_convergence("restarts", f"{_RESTARTS} restarts", left, again, len(at_eps)),
        _noise(left, ball(norm, eps), len(at_eps)),
    ]


def _attack(subject: _Subject, eps: float) -> Tensor:
    """Return who stands after a short search on cross-entropy and one on the margin, bool ``[N]``."""
    attack = PGD(norm=subject.threat.norm, eps=Radius(eps), steps=_STEPS, best=True, mode="train")
    alive = subject.survives(attack, subject.costlier)
    left = subject.at(alive)
    alive[alive.clone()] = left.survives(attack, left.worse)
    return alive


def _large_eps(alive: Tensor, eps: float) -> Check:
    """Allow any image: an example of another class is then an adversarial one, so nothing can stand."""
    robust = Proportion(claim="standing", passed=int(alive.sum()), of=len(alive))
    return Check(
        name="large eps",
        level=_level(robust),
        finding=f"{robust.passed} of {robust.of} images stand where any image is allowed (eps {eps:g})",
        figures={"share": robust.share, "eps": eps},
    )


def _monotone(alive: dict[float, Tensor]) -> Check:
    """Compare each radius with the next: what a small ball holds, a larger one holds too.

    A rise is one when the discordant examples differ by more than three standard errors (McNemar 1947).
    """
    radii = list(alive)
    level: Level = "fine"
    finding, worst = "robust accuracy does not rise with the radius", 0.0
    for small, large in pairwise(radii):
        gained, lost = int((alive[large] & ~alive[small]).sum()), int((alive[small] & ~alive[large]).sum())
        rise = (gained - lost) / len(alive[small])
        if gained - lost > 3 * sqrt(gained + lost) and rise > worst:
            level, worst = "suspect", rise
            finding = f"robust accuracy rises by {100 * rise:.0f} points when eps grows from {small:g} to {large:g}"
    figures = {f"eps {radius:g}": float(robust.double().mean()) for radius, robust in alive.items()}
    return Check(name="monotone", level=level, finding=finding, figures=figures)


def _check_convergence(name: str, what: str, left: _Subject, attack: PGD, of: int) -> Check:
    """Search those still robust harder: many more misclassified means that the search had not converged."""
    more = int((~left.survives(attack, left.worse)).sum())
    return _broke_more(name, f"a search of {what}", more, of)


def _noise(left: _Subject, area: Ball, of: int) -> Check:
    """Draw directions at random and go to the ball's rim: gradients must do better than that (Carlini et al. 2019)."""
    torch.manual_seed(seed_at(left.seed, "reliability", "noise"))
    alive = torch.ones_like(left.y, dtype=torch.bool)
    for _ in range(_DRAWS if len(alive) else 0):
        drawn = left.x + area.eps * area.steepest(torch.randn_like(left.x))
        alive &= left.stands(area.project(drawn, left.x))
    return _broke_more("noise", f"noise of {_DRAWS} draws", int((~alive).sum()), of)


def _broke_more(name: str, what: str, more: int, of: int) -> Check:
    misclassified = Proportion(claim=what, passed=more, of=of)
    return Check(
        name=name,
        level=_level(misclassified),
        finding=f"{what} broke {more} of {of} images that a short search on gradients did not",
        figures={"share": misclassified.share},
    )


# --- measures ---------------------------------------------------------------------------------------------------------


def _correct(model: Classifier, x: Tensor, y: Tensor, threat: Threat, seed: int) -> _Subject:
    """Return the first examples that the network classifies correctly."""
    with torch.no_grad():
        parts = (x[start : start + EXAMPLES] for start in range(0, len(x), EXAMPLES))
        right = torch.cat([model(part).argmax(dim=1) for part in parts]) == y
    keep = right.nonzero().flatten()[:EXAMPLES]
    return _Subject(model, x[keep], y[keep], threat, seed)


def _nothing_to_attack(of: int) -> Check:
    return Check(
        name="examples",
        level="suspect",
        finding=f"none of {of} images is classified correctly, so there is nothing to attack",
        figures={},
    )


def _level(share: Proportion) -> Level:
    low, _ = share.interval if share.passed >= _FEW else (0.0, 1.0)
    return "fail" if low > FAIL else "suspect" if low > SUSPECT else "fine"


def _nothing(x: Tensor) -> Tensor:
    """Return zeros ``[N]`` that depend on the pixels: where nothing else does, the gradient is 0 and not an error."""
    return 0 * x.flatten(1).sum(dim=1)


def _steepness(x: Tensor, score: Score) -> Tensor:
    """Return the largest entry of each image's gradient, ``[N]``; NaN or infinite where an entry is."""
    return as_objective(score).ascend(x)[1].flatten(1).abs().amax(dim=1)


def _change(logits: Tensor, *others: Tensor) -> float:
    """Return the largest change of the first rows relative to the spread of all; NaN where one is not finite."""
    spread = (logits.amax(dim=1) - logits.amin(dim=1)).max().clamp_min(torch.finfo(logits.dtype).tiny)
    return float(torch.stack([(other - logits[: len(other)]).abs().max() for other in others]).max() / spread)


def _diameter(subject: _Subject) -> float:
    """Return the size of the whole box [0, 1], at which every image is allowed."""
    return float(ball(subject.threat.norm, 1.0).size(torch.ones_like(subject.x[:1])))


@contextmanager
def _unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Give buffers and random states back: in train mode each pass moves BatchNorm's running statistics."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, was in before.items():
                    model.get_buffer(name).copy_(was)

"""How far a student can be driven from its teacher around an image: what an attack on both at once can show.

The questions are those of "Faithful Knowledge Distillation" (Lamb et al. 2023, arXiv 2306.04431); the definitions here
are the project's own (the paper's code is not public). Every value is attained by an image that is kept, so each is a
lower bound of a supremum, and each share of faithful examples an upper bound of the true one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from time import monotonic

import torch
from torch import Tensor, nn

from overproof.attacks.ball import Radius, Threat, per_example
from overproof.attacks.objectives import Score
from overproof.attacks.pgd import PGD
from overproof.data.draws import seed_at
from overproof.data.images import Batch
from overproof.errors import InputError
from overproof.functional import difference, margin
from overproof.models.classifier import Classifier
from overproof.models.mode import in_mode

GAMMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # where the curve is drawn if nothing else is asked for
_MOMENTUM = 0.75  # on the reference pair one ascent with it finds what eight without do
_ASCENTS = 6  # three scores, both directions
_WITH_GRADIENT = 3  # passes that one with its gradient takes as long as
_LEAST_STEPS = 3
_TRAVEL = 5  # all steps together, in radii: twice PGD's usual, since a gap's highest point is often not at the rim


@dataclass(frozen=True, eq=False)
class PairAttack:
    """What an attack showed of a teacher and its student around N images ``[N, C, H, W]`` with labels y.

    With f(x') a network's softmax confidence in y, ``under`` ``[N]`` is the largest teacher's less student's f found in
    the ball, ``over`` the largest opposite difference, both in [-1, 1] (below 0 where only the contrary was met).
    ``agrees``, bool ``[N]``, is false where a point was found at which the two predict different classes, beyond a tie.
    The points are ``x_under``, ``x_over`` and ``x_disagree``, the last one the image itself where the two agree.
    Examples count where the teacher is right about the image (``correct``, bool ``[N]``); elsewhere values are NaN,
    ``agrees`` is false and the points are the image. ``student_correct`` says where the student is right about it.
    """

    correct: Tensor
    student_correct: Tensor
    under: Tensor
    over: Tensor
    agrees: Tensor
    x_under: Tensor
    x_over: Tensor
    x_disagree: Tensor
    seconds: float = 0.0

    @property
    def gap(self) -> Tensor:
        """The larger of ``under`` and ``over``, ``[N]``, in [0, 1]; NaN where the teacher is wrong."""
        return torch.maximum(self.under, self.over)


def attack_pair(
    teacher: Classifier,
    student: Classifier,
    block: Batch,
    threat: Threat,
    *,
    steps: int = 50,
    restarts: int = 4,
    seconds: float = inf,
    seed: int = 0,
    number: int = 0,
) -> PairAttack:
    """Search the ball around each image of a block for the worst differences between the two networks.

    Three scores are maximised in both directions through both networks: the difference of confidences, that of log-odds
    and the smaller of the two margins that make a disagreement. Each has ``restarts`` ascents of ``steps``, the first
    from the image and the others from random points; every point on the way is looked at for all three questions, so
    more restarts never find less. Of the six searches none but the first is begun after so many ``seconds``. Costs
    ``6 * restarts * (steps + 1)`` passes through both. Draws depend on ``(seed, number)`` alone, ``number`` being the
    block's; random state and modes are given back. Raises ``InputError`` for networks or images that do not fit each
    other, outputs that are not finite, and no steps or restarts.
    """
    if steps < 1 or restarts < 1:
        raise InputError(f"a search needs at least one step and one ascent, got {steps} and {restarts}")
    _check_fit(teacher, student, block)
    started, x, y = monotonic(), block.x.detach(), block.y
    step = Radius(_TRAVEL * threat.eps / steps)
    first = PGD(norm=threat.norm, eps=threat.eps, step=step, steps=steps, start="none", momentum=_MOMENTUM, best=True)
    again = [replace(first, start="uniform", restarts=restarts - 1)] if restarts > 1 else []
    pair = nn.ModuleList([teacher, student])
    with in_mode(pair, training=False), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        correct, student_correct = _right("teacher", teacher, block), _right("student", student, block)
        rows = correct.nonzero().flatten()
        watch = _Watch(teacher, student, x[rows], y[rows])
        for name, score in _SCORES.items() if len(rows) else ():
            for under in (True, False):
                if (name, under) != ("confidence", True) and monotonic() - started > seconds:
                    continue
                torch.manual_seed(seed_at(seed, "imitation", name, number))
                for attack in (first, *again):
                    attack(pair, watch.x, watch.objective(score, under=under))
        lead, behind, apart = (watch.measured(watch.at[name])[name] for name in watch.at)
    nothing = torch.full((len(x),), torch.nan, dtype=lead.dtype, device=x.device)
    return PairAttack(
        correct=correct,
        student_correct=student_correct,
        under=nothing.index_put((rows,), lead),
        over=nothing.index_put((rows,), behind),
        agrees=torch.zeros_like(correct).index_put((rows,), ~(apart > 0)),
        **{f"x_{name}": x.index_put((rows,), point) for name, point in watch.at.items()},
        seconds=monotonic() - started,
    )


def affordable(
    teacher: Classifier, student: Classifier, block: Batch, seconds: float, *, steps: int = 50, restarts: int = 4
) -> tuple[int, int] | None:
    """Return how many steps and restarts of ``attack_pair`` a block has time for; None where all fit.

    Fewer restarts first, then fewer steps, at least three. One pass through both networks is measured; with its
    gradient it takes three times as long.
    """
    with in_mode(nn.ModuleList([teacher, student]), training=False), torch.no_grad():
        fits = 0.0
        for _ in range(2):  # the first pass of a process takes longer
            started = monotonic()
            float(teacher(block.x).sum() + student(block.x).sum())  # waits for the device
            fits = seconds / (_ASCENTS * _WITH_GRADIENT * max(monotonic() - started, 1e-9))
            if fits >= restarts * (steps + 1):
                return None
    if fits >= steps + 1:
        return steps, int(fits / (steps + 1))
    return max(_LEAST_STEPS, int(fits) - 1), 1


class _Watch:
    """Looks at every point that passes through both networks, and keeps the best one for each of three questions."""

    def __init__(self, teacher: nn.Module, student: nn.Module, x: Tensor, c: Tensor) -> None:
        self.teacher, self.student, self.x, self.c = teacher, student, x, c
        self.at = dict.fromkeys(("under", "over", "disagree"), x)
        self.best = self.measured(x)

    def measured(self, x: Tensor) -> dict[str, Tensor]:
        """Return the three quantities ``[N]`` at these points."""
        with torch.no_grad():
            return _measure(self.teacher(x), self.student(x), self.c)

    def objective(self, score: "PairScore", *, under: bool) -> Score:
        """Return the objective that an attack maximises: the student less sure than the teacher, or the opposite."""

        def score_of(x: Tensor) -> Tensor:
            teacher, student = self.teacher(x), self.student(x)
            for name, value in _measure(teacher.detach(), student.detach(), self.c).items():
                higher = value > self.best[name]
                self.best[name] = torch.where(higher, value, self.best[name])
                self.at[name] = torch.where(per_example(higher, x), x.detach(), self.at[name])
            return score(teacher, student, self.c) if under else score(student, teacher, self.c)

        return score_of


PairScore = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits ``[N, K]`` of the network that is to be surer and of the other, classes c ``[N]`` -> ``[N]``."""


def _confidence(surer: Tensor, other: Tensor, c: Tensor) -> Tensor:
    """Return how much higher the first confidence in c is, as ``(1 - f_other) - (1 - f_surer)``.

    Near 1 a confidence has no digits left in float32, and no gradient; what it lacks to 1 has both.
    """
    return _doubt(other, c).sigmoid() - _doubt(surer, c).sigmoid()


def _doubt(logits: Tensor, c: Tensor) -> Tensor:
    """Return ``s = logsumexp_{j != c} z_j - z_c``, ``[N]``: the confidence in c is ``sigmoid(-s)``."""
    own = logits.gather(1, c[:, None]).squeeze(1)
    return logits.scatter(1, c[:, None], -torch.inf).logsumexp(dim=1) - own


def _measure(teacher: Tensor, student: Tensor, c: Tensor) -> dict[str, Tensor]:
    """Return the leads in confidence, ``[N]``, and the lesser lead of one's class over the other's: 0 if they agree."""
    lead = _confidence(teacher, student, c)
    one, two = teacher.argmax(dim=1), student.argmax(dim=1)
    apart = torch.minimum(difference(teacher, two, one), difference(student, one, two))
    return {"under": lead, "over": -lead, "disagree": apart}


_SCORES: dict[str, PairScore] = {
    "confidence": _confidence,
    "log-odds": lambda surer, other, c: _doubt(other, c) - _doubt(surer, c),
    # Above 0 exactly where the first predicts c and the other does not; scales of logits do not matter to that.
    "classes": lambda surer, other, c: torch.minimum(margin(surer, c), -margin(other, c)),
}


def _right(name: str, network: Classifier, block: Batch) -> Tensor:
    """Return where a network is right about the images, bool ``[N]``."""
    with torch.no_grad():
        logits: Tensor = network(block.x)
    bad = int((~logits.isfinite()).any(dim=1).sum())
    if bad:
        raise InputError(f"the {name}'s outputs are not finite (NaN or infinite) on {bad} of {len(logits)} images")
    return logits.argmax(dim=1) == block.y


def _check_fit(teacher: Classifier, student: Classifier, block: Batch) -> None:
    task, (x, y) = student.signature, block
    if teacher.signature != task:
        raise InputError(f"the teacher is for {teacher.signature}, but the student for {task}; they need one task")
    if not len(x) or x.shape[1:] != (task.channels, task.height, task.width):
        raise InputError(f"teacher and student are for {task}, but the images are {list(x.shape)}")
    if y.shape != x.shape[:1] or int(y.min()) < 0 or int(y.max()) >= task.classes:
        raise InputError(f"{len(x)} images need as many labels from 0 to {task.classes - 1}, got {list(y.shape)}")

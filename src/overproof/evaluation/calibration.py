"""Whether a confidence means what it says, and whether a student is as confident as its teacher."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from overproof.errors import InputError
from overproof.functional import cross_entropy
from overproof.statistics import Proportion


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The examples whose confidence is in (``lower``, ``upper``]: how many, how confident and how often right.

    Mean ``confidence`` and ``accuracy`` are in [0, 1]; None where the bin is empty.
    """

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None

    @property
    def error(self) -> float:
        """The number of examples times |accuracy - confidence|."""
        return (
            0.0
            if self.accuracy is None or self.confidence is None
            else self.count * abs(self.accuracy - self.confidence)
        )


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far the confidences of N examples can be trusted; 0 is best in all four numbers.

    ``ece`` in [0, 1]: mean over examples of |accuracy - confidence| of their bin, bins of equal width (Guo et al. 2017,
    eq. 3). ``adaptive_ece`` in [0, 1]: the same with bins of equal mass (Nguyen and O'Connor 2015), so that no bin is
    nearly empty. ``brier`` in [0, 2]: squared distance of the probabilities from the label's, summed over classes
    (Brier 1950). ``nll``: negative log-likelihood in nats. ``bins`` are the bars of a reliability diagram.
    """

    of: int
    accuracy: float
    ece: float
    adaptive_ece: float
    brier: float
    nll: float
    bins: tuple[Bin, ...]

    def plain(self) -> dict[str, Any]:
        """Return the fields as JSON values, unrounded."""
        return asdict(self) | {"bins": [asdict(one) for one in self.bins]}


def calibration(logits: Tensor, labels: Tensor, *, bins: int = 15) -> Calibration:
    """Measure the calibration of logits ``[N, K]`` against labels ``[N]``, on any device, in float64.

    The confidence is the largest softmax probability. Raises ``InputError`` without examples or bins, where lengths
    differ, where a logit is not finite and where a label is none of the K classes.
    """
    z, y = _check_logits("logits", logits), labels.detach().cpu().long()
    if y.shape != z.shape[:1]:
        raise InputError(f"there are {len(z)} rows of logits, but labels of shape {list(y.shape)}")
    if int(y.min()) < 0 or int(y.max()) >= z.shape[1]:
        raise InputError(f"labels span {int(y.min())}..{int(y.max())}, but the logits are of {z.shape[1]} classes")
    if bins < 1:
        raise InputError(f"a reliability diagram needs at least one bin, got {bins}")
    probabilities = z.softmax(dim=1)
    confidence, prediction = probabilities.max(dim=1)
    right = (prediction == y).double()
    bars = _equal_width(confidence, right, bins)
    wanted = torch.zeros_like(probabilities).scatter(1, y[:, None], 1.0)
    return Calibration(
        of=len(y),
        accuracy=float(right.mean()),
        ece=sum(bar.error for bar in bars) / len(y),
        adaptive_ece=_equal_mass_error(confidence, right, bins),
        brier=float((probabilities - wanted).square().sum(dim=1).mean()),
        nll=float(cross_entropy(z, y).mean()),
        bins=bars,
    )


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How faithfully a student imitates its teacher on N inputs, after Lamb et al. 2023 (arXiv 2306.04431).

    ``same`` counts equal predictions. With c the class the teacher stands for and p the softmax, ``under`` is the mean
    of max(p_teacher[c] - p_student[c], 0), the student's lack of confidence, and ``over`` the mean of the opposite
    difference, its excess; both in [0, 1].
    """

    same: Proportion
    under: float
    over: float

    @property
    def gap(self) -> float:
        """The mean confidence gap |p_teacher[c] - p_student[c]|, in [0, 1]."""
        return self.under + self.over

    def plain(self) -> dict[str, Any]:
        """Return the fields and the gap as JSON values, unrounded."""
        return {"same": self.same.plain(), "gap": self.gap, "under": self.under, "over": self.over}


def compare_answers(student_logits: Tensor, teacher_logits: Tensor, *, classes: Tensor | None = None) -> Agreement:
    """Compare the logits ``[N, K]`` of both networks on the same inputs, on any device, in float64.

    ``classes`` ``[N]`` are the classes c whose confidence is compared: the teacher's predictions on these inputs where
    nothing is given. For attacked inputs give its predictions on the clean ones, as the paper's definition has it.
    Raises ``InputError`` without examples, where shapes differ and where a logit is not finite.
    """
    student = _check_logits("the student's logits", student_logits)
    teacher = _check_logits("the teacher's logits", teacher_logits)
    if student.shape != teacher.shape:
        raise InputError(f"the student's logits are {list(student.shape)}, but the teacher's {list(teacher.shape)}")
    c = teacher.argmax(dim=1) if classes is None else classes.detach().cpu().long()
    if c.shape != teacher.shape[:1] or int(c.min()) < 0 or int(c.max()) >= teacher.shape[1]:
        raise InputError(f"classes must be {len(teacher)} numbers from 0 to {teacher.shape[1] - 1}")
    lead = (teacher.softmax(dim=1) - student.softmax(dim=1)).gather(1, c[:, None])
    same = student.argmax(dim=1) == teacher.argmax(dim=1)
    return Agreement(
        same=Proportion(claim="student and teacher predict the same class", passed=int(same.sum()), of=len(same)),
        under=float(lead.clamp_min(0).mean()),
        over=float((-lead).clamp_min(0).mean()),
    )


def _check_logits(name: str, logits: Tensor) -> Tensor:
    """Return logits ``[N, K]`` in float64 on the CPU."""
    if logits.dim() != 2 or 0 in logits.shape:
        raise InputError(f"{name} must be [N, K] with at least one example, got {list(logits.shape)}")
    z = logits.detach().to("cpu", torch.float64)
    bad = int((~z.isfinite()).any(dim=1).sum())
    if bad:
        raise InputError(f"{name} of {bad} of {len(z)} examples are not finite")
    return z


def _equal_width(confidence: Tensor, right: Tensor, bins: int) -> tuple[Bin, ...]:
    edges = torch.arange(bins + 1, dtype=torch.float64) / bins
    where = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
    bars = []
    for index in range(bins):
        inside = where == index
        count = int(inside.sum())
        bars.append(
            Bin(
                lower=float(edges[index]),
                upper=float(edges[index + 1]),
                count=count,
                confidence=float(confidence[inside].mean()) if count else None,
                accuracy=float(right[inside].mean()) if count else None,
            )
        )
    return tuple(bars)


def _equal_mass_error(confidence: Tensor, right: Tensor, bins: int) -> float:
    # Equally confident examples share their accuracy, or the error would depend on which of them a bin's edge parts.
    values, group, counts = torch.unique(confidence, return_inverse=True, return_counts=True)
    accuracy = torch.zeros_like(values).index_add_(0, group, right) / counts
    group = group.sort().values
    gaps = (accuracy - values)[group].tensor_split(min(bins, len(group)))
    return sum(abs(float(gap.sum())) for gap in gaps) / len(group)

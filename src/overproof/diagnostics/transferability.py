"""Whether what is found on a student misleads its teacher as well: what distillation can pass on.

Lee et al. (SAAD, TMLR 2026) explain with it why the students of some very robust teachers are weak: where the teacher
does not feel an image that was searched on the student, its answer there is as sure as on the clean image, and what
the student is told is close to a hard label.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overproof.attacks.base import BaseAttack
from overproof.data.draws import seed_at
from overproof.data.images import Batch, ImageSet
from overproof.functional import cross_entropy, entropy, kl
from overproof.models.classifier import Classifier
from overproof.models.mode import in_mode
from overproof.statistics import Proportion

PUBLISHED: tuple[tuple[str, float, float], ...] = (
    ("LTD WRN-34-10", 0.981, 0.522),
    ("Rebuffi", 0.677, 0.509),
    ("Cui WRN-28-10", 0.540, 0.491),
    ("Bartoldson WRN-94-16", 0.199, 0.441),
    ("Gowal WRN-28-10", 0.149, 0.411),
)
"""Teacher, its share of transferable samples, and the AutoAttack accuracy of its ResNet-18 student by RSLAD: CIFAR-10,
L-inf 8/255 (Lee et al., TMLR 2026, table 10; five of its fifteen teachers)."""


def transferable(clean: Tensor, by_student: Tensor, by_teacher: Tensor) -> Tensor:
    """Return which examples are transferable, bool ``[N]`` (SAAD, equation 7).

    All are the teacher's logits ``[N, K]``: on the clean images, on those searched on the student, and on those
    searched on the teacher itself. One is transferable if ``KL(T(x_S) || T(x)) >= KL(T(x_S) || T(x_T))``: the teacher
    answers what misleads the student more as it answers what misleads itself than as it answers the clean image.
    """
    return kl(clean, by_student) >= kl(by_teacher, by_student)


_BATCH = 250


@dataclass(frozen=True, kw_only=True)
class Transferability:
    """The share of transferable samples, and how unsure the teacher is, in nats, on clean and on attacked images."""

    share: Proportion
    entropy_clean: float
    entropy_attacked: float

    @property
    def predicted(self) -> tuple[float, float, float]:
        """The AutoAttack accuracy of a ResNet-18 by RSLAD on CIFAR-10 at 8/255, and its 95 % prediction interval."""
        return predicted_accuracy(self.share.share)

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        expected, low, high = self.predicted
        return {
            "transferable": self.share.plain(),
            "entropy": {"clean": self.entropy_clean, "attacked": self.entropy_attacked},
            "published": {
                "what": "AutoAttack accuracy of a ResNet-18 by RSLAD, CIFAR-10, linf 8/255",
                "expected": expected,
                "interval": [low, high],
            },
        }


def transferability(
    teacher: Classifier, student: Classifier, images: ImageSet, attack: BaseAttack, *, seed: int
) -> Transferability:
    """Return how far a search on the student carries over to the teacher, on images that lie on the networks' device.

    Both searches are ``attack`` on the network's own cross-entropy with the labels, from the same random starts.
    """
    passed, unsure_clean, unsure_attacked = 0, 0.0, 0.0
    for number, part in enumerate(images.batches(_BATCH)):
        by_student, by_teacher = (
            _searched(network, part, attack, seed_at(seed, "transferability", number)) for network in (student, teacher)
        )
        with in_mode(teacher, training=False), torch.no_grad():
            clean, by_student, by_teacher = (teacher(x).double() for x in (part.x, by_student, by_teacher))
        passed += int(transferable(clean, by_student, by_teacher).sum())
        unsure_clean += float(entropy(clean).sum())
        unsure_attacked += float(entropy(by_student).sum())
    return Transferability(
        share=Proportion(claim="transferable from the student to the teacher", passed=passed, of=len(images)),
        entropy_clean=unsure_clean / len(images),
        entropy_attacked=unsure_attacked / len(images),
    )


def predicted_accuracy(share: float) -> tuple[float, float, float]:
    """Return what the published teachers predict at a share in [0, 1], with a 95 % interval for one more student.

    Least squares on ``PUBLISHED`` with Student's interval of a new observation: five points, three degrees of freedom.
    """
    from scipy.stats import t

    shares, accuracies = [point[1] for point in PUBLISHED], [point[2] for point in PUBLISHED]
    count = len(PUBLISHED)
    middle, height = sum(shares) / count, sum(accuracies) / count
    spread = sum((each - middle) ** 2 for each in shares)
    slope = sum((x - middle) * (y - height) for x, y in zip(shares, accuracies, strict=True)) / spread
    rest = sum((y - height - slope * (x - middle)) ** 2 for x, y in zip(shares, accuracies, strict=True))
    deviation = math.sqrt(rest / (count - 2) * (1 + 1 / count + (share - middle) ** 2 / spread))
    expected, half = height + slope * (share - middle), float(t.ppf(0.975, count - 2)) * deviation
    return expected, expected - half, expected + half


def _searched(network: Classifier, part: Batch, attack: BaseAttack, seed: int) -> Tensor:
    with torch.random.fork_rng(), in_mode(network, training=False):
        torch.manual_seed(seed)
        return attack(network, part.x, lambda x: cross_entropy(network(x), part.y))

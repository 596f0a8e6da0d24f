import math

import numpy as np
import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.data.images import ImageSet
from overproof.diagnostics.transferability import (
    PUBLISHED,
    predicted_accuracy,
    transferability,
    transferable,
)
from overproof.models.architectures.mlp import MLP
from overproof.models.weights import build
from overproof.signature import Signature

SIZE = Signature(channels=1, height=2, width=2, classes=3)


def network(seed):
    torch.manual_seed(seed)
    return build(MLP(hidden=(8,)), SIZE).eval()


def images(count=40):
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return ImageSet(name="made", images=pixels, labels=labels, classes=("a", "b", "c"))


def plain_kl(p, q):
    return float((p * (np.log(p) - np.log(q))).sum())


def test_equation_7_by_hand():
    generator = torch.Generator().manual_seed(1)
    clean, by_student, by_teacher = torch.randn(3, 50, 4, generator=generator, dtype=torch.float64)
    expected = []
    for logits in zip(clean, by_student, by_teacher, strict=True):
        p, p_student, p_teacher = (torch.softmax(each, dim=0).numpy() for each in logits)
        expected.append(plain_kl(p_student, p) >= plain_kl(p_student, p_teacher))
    assert transferable(clean, by_student, by_teacher).tolist() == expected
    assert 0 < sum(expected) < 50


def test_what_misleads_the_teacher_itself_is_transferable_and_what_changes_nothing_is_not():
    clean, attacked = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    assert transferable(clean, attacked, attacked).all()
    assert not transferable(clean, clean, attacked).any()


def test_a_teacher_that_is_its_own_student_feels_everything():
    teacher = network(0)
    found = transferability(teacher, teacher, images(), PGD(eps=0.2, steps=3), seed=0)
    assert found.share.passed == found.share.of == 40
    assert 0 < found.entropy_clean < math.log(3)


def test_the_same_seed_finds_the_same_and_modes_come_back():
    teacher, student = network(0), network(1)
    teacher.train(), student.train()
    before = torch.get_rng_state()
    one, two = (transferability(teacher, student, images(), PGD(eps=0.2, steps=3), seed=3) for _ in range(2))
    assert one == two
    assert teacher.training and student.training
    assert torch.equal(torch.get_rng_state(), before)


def test_the_prediction_is_least_squares_with_students_interval():
    from scipy.stats import linregress, t

    shares, accuracies = (np.array([point[i] for point in PUBLISHED]) for i in (1, 2))
    line = linregress(shares, accuracies)
    left = accuracies - line.intercept - line.slope * shares
    for share in (0.0, 0.3, 1.0):
        expected, low, high = predicted_accuracy(share)
        assert expected == pytest.approx(line.intercept + line.slope * share, abs=1e-12)
        leverage = 1 + 1 / 5 + (share - shares.mean()) ** 2 / ((shares - shares.mean()) ** 2).sum()
        half = t.ppf(0.975, 3) * math.sqrt((left**2).sum() / 3 * leverage)
        assert (high - low) / 2 == pytest.approx(half, abs=1e-12)
        assert low < expected < high


def test_the_prediction_contains_each_teacher_that_was_left_in():
    for _, share, accuracy in PUBLISHED:
        _, low, high = predicted_accuracy(share)
        assert low < accuracy < high

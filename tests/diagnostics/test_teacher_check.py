from dataclasses import replace

import pytest
import torch
from torch import nn

from overproof.diagnostics.teacher_check import (
    AS_IT_IS,
    Order,
    PixelReading,
    Student,
    TeacherCheck,
    better_reading,
    class_order,
    confidence_in_errors,
    readings,
)
from overproof.errors import InputError
from overproof.evaluation.calibration import calibration
from overproof.models.classifier import Classifier
from overproof.signature import Signature
from overproof.statistics import Proportion


def evidence(passed, of=1000):
    return Proportion(claim="correct", passed=passed, of=of)


def reading(name, passed, *, mean=(0.0,), std=(1.0,), of=1000):
    return PixelReading(name=name, mean=mean, std=std, correct=evidence(passed, of))


@pytest.fixture
def found():
    """Return a teacher without fault; tests change one thing each."""
    logits = torch.tensor([[2.0, 0.0, 0.0, 0.0]] * 4)
    return TeacherCheck(
        clean=evidence(900),
        robust=evidence(550),
        readings=(reading(AS_IT_IS, 900), reading("0..255", 300, std=(1 / 255,))),
        order=Order(order=(0, 1, 2, 3), correct=evidence(900)),
        calibration=calibration(logits, torch.tensor([0, 0, 0, 1])),
        errors_clean=0.5,
        errors_attacked=0.45,
    )


# --- pixels -----------------------------------------------------------------------------------------------------------


class Levels(nn.Module):
    """Tells the brighter from the darker half of pixels, if they are handed over as ``(pixel - mean) / std``."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        # Two classes: further from the right threshold than a whole range away is a class of its own.
        value = x.mean(dim=(1, 2, 3)) * self.std + self.mean
        outside = ((value < 0) | (value > 1)).float()
        return torch.stack([0.5 - value, value - 0.5, 10 * outside], dim=1)


def levels(mean, std, /, **inside):
    x = torch.linspace(0.05, 0.95, 40)[:, None, None, None].expand(40, 1, 2, 2).contiguous()
    model = Classifier(Levels(mean, std), Signature(channels=1, height=2, width=2, classes=3), **inside)
    return model, x, (x[:, 0, 0, 0] > 0.5).long()


@pytest.mark.parametrize(
    ("mean", "std", "name"), [(0, 1 / 255, "0..255"), (0.5, 0.5, "[-1, 1]")], ids=["bytes", "symmetric"]
)
def test_the_range_that_a_network_wants_is_found(mean, std, name):
    wants = (0, 1 / 255) if name == "0..255" else (mean, std)
    found = readings(*levels(*wants))
    shares = {one.name: one.correct.share for one in found}
    assert shares[name] == 1.0
    assert shares[AS_IT_IS] == shares["[0, 1]"] < 0.9
    assert better_reading(found).name == name


def test_every_image_is_read_and_colours_have_a_reading_of_their_own(tiny_classifier):
    model = tiny_classifier().eval()
    x, y = torch.rand(300, 3, 8, 8), torch.arange(300) % 4  # more than one pass holds
    found = {one.name: one for one in readings(model, x, y)}
    assert found["ImageNet's mean and std"].mean == (0.485, 0.456, 0.406)
    assert found["ImageNet's mean and std"].std == (0.229, 0.224, 0.225)
    with torch.no_grad():
        right = int((model(x).argmax(dim=1) == y).sum())
    assert (found[AS_IT_IS].correct.passed, found[AS_IT_IS].correct.of) == (right, 300)


def test_a_normalisation_inside_is_the_reading_in_use():
    found = readings(*levels(0.5, 0.5, mean=(0.5,), std=(0.5,)))
    assert (found[0].name, found[0].mean, found[0].std) == (AS_IT_IS, (0.5,), (0.5,))
    assert found[0].correct.passed == 40
    assert better_reading(found) is None
    # Normalised twice: the one inside should not be there.
    found = readings(*levels(0.0, 1.0, mean=(0.5,), std=(0.5,)))
    assert better_reading(found).name == "[0, 1]"


def test_modes_and_gradients_are_left_alone(tiny_classifier, tiny_batch, modes):
    model = tiny_classifier()
    model.backbone[1].eval()
    before = modes(model)
    names = [one.name for one in readings(model, *tiny_batch)]
    assert modes(model) == before
    assert names[-1] == "ImageNet's mean and std"
    assert all(weight.grad is None for weight in model.parameters())


def test_a_little_better_is_not_clearly_better():
    assert better_reading((reading(AS_IT_IS, 900), reading("0..255", 940))) is None
    assert better_reading((reading(AS_IT_IS, 9, of=10), reading("0..255", 10, of=10))) is None
    assert better_reading((reading(AS_IT_IS, 800), reading("0..255", 900))).name == "0..255"


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_permutation_of_classes_is_found(seed):
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(60) % 6
    answers = order[labels].clone()
    answers[:4] = 0  # a few errors
    found = class_order(nn.functional.one_hot(answers, 6).float(), labels)
    assert found.order == tuple(order.tolist())
    assert found.correct.passed == int((answers == order[labels]).sum())
    assert found.kept == (found.order == tuple(range(6)))


def test_the_best_order_is_never_worse_than_any_other():
    """The slow twin: all 24 orders of four classes."""
    from itertools import permutations

    for seed in range(10):
        draws = torch.Generator().manual_seed(seed)
        logits, labels = torch.rand(30, 4, generator=draws), torch.randint(4, (30,), generator=draws)
        answers = logits.argmax(dim=1)
        best = max(int((answers == torch.tensor(order)[labels]).sum()) for order in permutations(range(4)))
        assert class_order(logits, labels).correct.passed == best


def test_classes_that_do_not_occur_and_ties_keep_their_place():
    labels = torch.tensor([2, 2, 2])
    assert class_order(nn.functional.one_hot(labels, 7).float(), labels).kept
    constant = torch.zeros(10, 5)
    constant[:, 1] = 1
    assert class_order(constant, torch.arange(10) % 5).kept


# --- confidence -------------------------------------------------------------------------------------------------------


def test_confidence_in_errors_is_a_mean_over_errors_alone():
    logits = torch.tensor([[9.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert confidence_in_errors(logits, torch.tensor([0, 0, 0])) is None
    found = confidence_in_errors(logits, torch.tensor([0, 1, 1]))
    assert found == pytest.approx((0.5 + torch.tensor(1.0).sigmoid().item()) / 2)


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_a_teacher_without_fault_is_fit(found):
    assert found.verdict == "fit"
    assert found.sentence == "fit: 90.0 % correct on clean images, 55.0 % under attack"
    with_student = replace(found, student=Student(name="runs/at", clean=evidence(800), robust=evidence(500)))
    assert with_student.sentence.endswith("55.0 % under attack, runs/at alone 50.0 %")


CASES = {
    "range": (
        {"clean": evidence(100), "readings": (reading(AS_IT_IS, 100), reading("0..255", 900, std=(1 / 255,)))},
        "unfit: it wants pixels as 0..255 (90.0 % correct) and gets them in [0, 1] (10.0 %); import it again with "
        "--mean 0 --std 0.003922",
    ),
    "normalised-twice": (
        {
            "clean": evidence(300),
            "readings": (reading(AS_IT_IS, 300, mean=(0.5,), std=(0.25,)), reading("[0, 1]", 900)),
        },
        "unfit: it wants pixels as [0, 1] (90.0 % correct) and gets them with mean 0.5 and std 0.25 (30.0 %); import "
        "it again with no --mean and --std",
    ),
    "order": (
        {"clean": evidence(400), "order": Order(order=(0, 2, 1, 3), correct=evidence(880))},
        "unfit: its classes are in another order: 88.0 % correct with label k as its class 1 -> 2, 2 -> 1, 40.0 % as "
        "they are",
    ),
    "chance": ({"clean": evidence(255)}, "unfit: it is no better than chance on clean images (25.5 %)"),
    "not-robust": (
        {"robust": evidence(0)},
        "doubtful: it withstands nothing (0.0 % under attack): a teacher of clean answers alone, for roles such as "
        "'clean'; what is distilled from it on clean images alone withstands nothing either",
    ),
    "weaker": (
        {"student": Student(name="runs/at", clean=evidence(800), robust=evidence(560))},
        "doubtful: it is not more robust (55.0 %) than runs/at is without a teacher (56.0 %)",
    ),
    "confident": (
        {"errors_attacked": 0.82},
        "doubtful: it is confident in what it gets wrong under attack (mean 0.82); a method that asks it about "
        "attacked images would teach that; prefer one that asks about clean ones, or a temperature above 1",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_fault_has_its_sentence(name, found):
    changes, sentence = CASES[name]
    judged = replace(found, **changes)
    assert judged.sentence == sentence
    assert judged.verdict == sentence.split(":")[0]


def test_an_order_that_is_hardly_better_is_not_believed(found):
    assert replace(found, order=Order(order=(1, 0, 2, 3), correct=evidence(910))).verdict == "fit"


def test_plain_is_json_with_the_verdict(found):
    import json

    student = Student(name="runs/at", clean=evidence(800), robust=evidence(500))
    read = json.loads(json.dumps(replace(found, student=student).plain()))
    assert read["verdict"] == "fit"
    assert read["class_order"]["order"] == [0, 1, 2, 3]
    assert [one["name"] for one in read["readings"]] == [AS_IT_IS, "0..255"]
    assert read["student"]["robust"]["passed"] == 500
    assert found.plain()["student"] is None


def test_no_image_is_no_check(found):
    with pytest.raises(InputError, match="at least one image"):
        replace(found, clean=evidence(0, 0))

import pytest
import torch

from overproof.evaluation.answers import check_answers, is_constant, is_guessing, majority_share
from overproof.statistics import Proportion

CLASSES = ("cat", "dog", "owl")


def labels(*counts):
    return torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])


def test_chance_is_the_majoritys_share():
    assert majority_share(labels(80, 60, 70)) == 80 / 210
    assert majority_share(labels(0, 1)) == 1


def test_one_answer_for_all_images_fails_whatever_share_it_gets():
    """The case that was called "can be trusted": 38.1 % of 210 images, clean and attacked alike."""
    truth = labels(80, 60, 70)
    found = check_answers(torch.zeros(210, dtype=torch.int64), truth, CLASSES)
    assert (found.name, found.level) == ("answers", "fail")
    assert found.finding == "it answers 'cat' for all 210 images, whatever they show"
    assert found.figures == {"most_frequent_answer": 1.0, "majority": 80 / 210, "clean": 80 / 210}


@pytest.mark.parametrize("label", [0, 1, 2])
def test_nearly_one_answer_fails_as_well(label):
    predictions = torch.full((210,), label)
    predictions[:10] = (label + 1) % 3
    found = check_answers(predictions, labels(80, 60, 70), CLASSES)
    assert (found.level, found.finding) == (
        "fail",
        f"it answers {CLASSES[label]!r} for 200 of 210 images, whatever they show",
    )
    predictions[:11] = (label + 1) % 3  # 94.8 %
    assert not is_constant(predictions, labels(80, 60, 70))


def test_a_good_network_on_lopsided_data_is_fine():
    truth = labels(200, 6, 4)
    assert check_answers(truth, truth, CLASSES).level == "fine"
    # Right about 203 of 210, where always answering 'cat' is right about 200: nobody can tell.
    assert check_answers(torch.where(torch.arange(210) < 203, truth, 0), truth, CLASSES).level == "fail"


def test_guessing_is_suspect():
    truth = labels(80, 60, 70)
    guessed = truth.roll(70)
    found = check_answers(guessed, truth, CLASSES)
    assert found.level == "suspect"
    assert "no better than always answering 'cat' (38.1%)" in found.finding
    assert check_answers(truth, truth, CLASSES).level == "fine"
    assert check_answers(truth, truth, ()).finding == "its most frequent answer is class 0, for 80 of 210 images"


@pytest.mark.parametrize(
    ("passed", "of", "majority", "guessing"),
    [(38, 100, 0.38, True), (47, 100, 0.38, True), (49, 100, 0.38, False), (1, 2, 0.5, False), (10, 100, 0.5, True)],
)
def test_few_examples_say_little(passed, of, majority, guessing):
    assert is_guessing(Proportion(claim="", passed=passed, of=of), majority) is guessing

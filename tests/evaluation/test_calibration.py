import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overproof.errors import InputError
from overproof.evaluation.calibration import calibration, compare_answers


def logits_of(probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def sure(confidence, examples):
    """Return two-class logits that predict class 0 with this confidence."""
    return logits_of([[confidence, 1 - confidence]] * examples)


def right_in(count, of):
    """Return labels under which a network that always says 0 is right in ``count`` of ``of`` examples."""
    return torch.tensor([0] * count + [1] * (of - count))


def drawn(seed, examples=40, classes=5, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(examples, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (examples,), generator=generator)


# --- known answers ----------------------------------------------------------------------------------------------------


def test_three_examples_by_hand():
    found = calibration(
        logits_of([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]]), torch.tensor([0, 2, 2]), bins=2
    )
    # Confidences 0.7, 0.6 (wrong) and 0.5; the bins are (0, 0.5] and (0.5, 1].
    assert found.ece == pytest.approx((abs(1 - 0.5) + abs(1 - 1.3)) / 3)
    # Equal mass: (0.5, 0.6) and (0.7).
    assert found.adaptive_ece == pytest.approx((abs(1 - 1.1) + abs(1 - 0.7)) / 3)
    brier = (0.3**2 + 0.2**2 + 0.1**2) + (0.1**2 + 0.6**2 + 0.7**2) + (0.25**2 * 2 + 0.5**2)
    assert found.brier == pytest.approx(brier / 3)
    assert found.nll == pytest.approx(-(math.log(0.7) + math.log(0.3) + math.log(0.5)) / 3)
    assert (found.of, found.accuracy) == (3, pytest.approx(2 / 3))


def test_the_reliability_diagram_by_hand():
    logits = torch.cat([sure(0.75, 2), sure(0.95, 4)])
    found = calibration(logits, torch.tensor([0, 1, 0, 0, 0, 1]), bins=10)
    assert [(bar.lower, bar.upper) for bar in found.bins] == [(i / 10, (i + 1) / 10) for i in range(10)]
    assert [bar.count for bar in found.bins] == [0] * 7 + [2, 0, 4]
    assert (found.bins[7].confidence, found.bins[7].accuracy) == (pytest.approx(0.75), 0.5)
    assert (found.bins[9].confidence, found.bins[9].accuracy) == (pytest.approx(0.95), 0.75)
    assert found.bins[0].confidence is None and found.bins[0].accuracy is None
    assert found.ece == pytest.approx((2 * 0.25 + 4 * 0.2) / 6)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    found = calibration(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), bins=2)
    assert [bar.count for bar in found.bins] == [1, 0]


@pytest.mark.parametrize("examples", [1, 8])
def test_certain_and_right_is_perfect_and_certain_and_wrong_is_worst(examples):
    logits = torch.tensor([[800.0, 0.0]] * examples)
    right = calibration(logits, torch.zeros(examples, dtype=torch.int64))
    assert (right.ece, right.adaptive_ece, right.brier, right.nll) == (0, 0, 0, 0)
    wrong = calibration(logits, torch.ones(examples, dtype=torch.int64))
    assert (wrong.ece, wrong.adaptive_ece, wrong.brier, wrong.nll) == (1, 1, 2, 800)
    assert [bar.count for bar in wrong.bins] == [0] * 14 + [examples]


def test_bins_whose_accuracy_is_their_confidence_give_no_error():
    logits = torch.cat([sure(0.6, 10), sure(0.8, 10), sure(0.9, 10)])
    found = calibration(logits, torch.cat([right_in(6, 10), right_in(8, 10), right_in(9, 10)]))
    assert found.ece == pytest.approx(0, abs=1e-12)
    assert found.adaptive_ece == pytest.approx(0, abs=1e-12)  # though seven of its edges part equal confidences
    assert found.brier > 0.2


def test_equal_mass_sees_what_one_wide_bin_averages_away():
    # In (0, 1] over- and underconfidence cancel; two bins of equal mass tell them apart.
    logits, labels = torch.cat([sure(0.6, 5), sure(0.9, 5)]), torch.cat([right_in(5, 5), right_in(2, 5)])
    found = calibration(logits, labels, bins=1)
    assert found.ece == pytest.approx(abs(0.7 - 0.75)) == found.adaptive_ece
    assert calibration(logits, labels, bins=2).adaptive_ece == pytest.approx((0.4 + 0.5) / 2)


def slow_adaptive(logits, labels, bins):
    """Without ties: sort, cut into parts whose sizes differ by at most one, the larger ones first."""
    confidence, prediction = logits.softmax(dim=1).max(dim=1)
    pairs = sorted(zip(confidence.tolist(), (prediction == labels).tolist(), strict=True))
    small, larger = divmod(len(pairs), bins)
    total = 0.0
    for part in range(bins):
        count = small + (part < larger)
        mine, pairs = pairs[:count], pairs[count:]
        total += abs(sum(hit for _, hit in mine) - sum(sureness for sureness, _ in mine))
    return total / len(labels)


@pytest.mark.parametrize(("examples", "bins"), [(40, 15), (45, 15), (7, 3), (100, 1)])
def test_adaptive_error_is_the_slow_one(examples, bins):
    logits, labels = drawn(3, examples)
    assert calibration(logits, labels, bins=bins).adaptive_ece == pytest.approx(slow_adaptive(logits, labels, bins))


# --- properties -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 30), st.floats(0.01, 100))
def test_ranges_and_sums(seed, examples, bins, scale):
    logits, labels = drawn(seed, examples, scale=scale)
    found = calibration(logits, labels, bins=bins)
    assert 0 <= found.ece <= 1 + 1e-12 and 0 <= found.adaptive_ece <= 1 + 1e-12
    assert 0 <= found.brier <= 2 and found.nll >= 0
    assert sum(bar.count for bar in found.bins) == found.of == examples
    filled = [bar for bar in found.bins if bar.count]
    assert all(bar.lower < bar.confidence <= bar.upper + 1e-12 for bar in filled)
    accuracy = sum(bar.count * bar.accuracy for bar in filled) / examples
    confidence = sum(bar.count * bar.confidence for bar in filled) / examples
    assert found.accuracy == pytest.approx(accuracy)
    # No partition can hide the error of the whole, by the triangle inequality.
    assert min(found.ece, found.adaptive_ece) >= abs(accuracy - confidence) - 1e-12


@given(st.integers(0, 10**6), st.booleans())
def test_the_order_of_the_examples_does_not_matter(seed, tied):
    logits, labels = drawn(seed)
    if tied:
        logits = logits.round().clamp(-1, 1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    one, other = calibration(logits, labels), calibration(logits[order], labels[order])
    for name in ("accuracy", "ece", "adaptive_ece", "brier", "nll"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12), name


@given(st.integers(0, 10**6), st.floats(-50, 50))
def test_a_shift_of_the_logits_changes_nothing(seed, shift):
    logits, labels = drawn(seed)
    one, other = calibration(logits, labels), calibration(logits + shift, labels)
    assert one.brier == pytest.approx(other.brier) and one.nll == pytest.approx(other.nll)


def test_it_computes_in_float64_whatever_it_is_given():
    logits, labels = drawn(5)
    exact = calibration(logits.float().double(), labels)
    assert calibration(logits.float().requires_grad_(), labels.int()) == exact
    assert calibration(torch.tensor([[20.0, 0.0]]), torch.tensor([0])).nll == pytest.approx(math.log1p(math.exp(-20)))


# --- agreement --------------------------------------------------------------------------------------------------------


def test_agreement_by_hand():
    student = logits_of([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])
    teacher = logits_of([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    found = compare_answers(student, teacher)
    assert (found.same.passed, found.same.of) == (2, 3)
    assert found.under == pytest.approx((0.3 + 0.5) / 3)
    assert found.over == pytest.approx(0.2 / 3)
    assert found.gap == pytest.approx(1.0 / 3)


def test_the_class_compared_is_the_teachers_or_the_one_given():
    student, teacher = logits_of([[0.2, 0.7, 0.1]]), logits_of([[0.1, 0.3, 0.6]])
    assert compare_answers(student, teacher).under == pytest.approx(0.5)
    given_class = compare_answers(student, teacher, classes=torch.tensor([0]))
    assert (given_class.under, given_class.over) == (0, pytest.approx(0.1))
    assert given_class.same.passed == 0


@given(st.integers(0, 10**6))
def test_a_network_agrees_with_itself_and_a_gap_has_two_signs(seed):
    teacher, _ = drawn(seed)
    student, _ = drawn(seed + 1)
    itself = compare_answers(teacher, teacher)
    assert (itself.same.passed, itself.gap) == (40, 0)
    found = compare_answers(student, teacher)
    assert 0 <= found.gap <= 1
    c = teacher.argmax(dim=1)
    back = compare_answers(teacher, student, classes=c)
    assert (back.under, back.over, back.same.passed) == (found.over, found.under, found.same.passed)


# --- JSON and bad input -----------------------------------------------------------------------------------------------


def test_plain_values_are_strict_json_and_unrounded():
    logits, labels = drawn(1)
    found, pair = calibration(logits, labels), compare_answers(logits, logits.flip(1))
    written = json.loads(json.dumps([found.plain(), pair.plain()], allow_nan=False))
    assert written[0]["ece"] == found.ece and written[0]["nll"] == found.nll
    assert written[0]["bins"][0] == {"lower": 0.0, "upper": 1 / 15, "count": 0, "confidence": None, "accuracy": None}
    assert written[1]["gap"] == pair.gap and written[1]["same"]["of"] == 40


@pytest.mark.parametrize(
    ("logits", "labels", "bins", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0), 15, r"logits must be \[N, K\] with at least one example, got \[0, 3\]"),
        (torch.zeros(3), torch.zeros(3), 15, r"logits must be \[N, K\]"),
        (torch.zeros(4, 3), torch.zeros(3), 15, r"4 rows of logits, but labels of shape \[3\]"),
        (torch.zeros(2, 3), torch.zeros(2, 1), 15, r"labels of shape \[2, 1\]"),
        (torch.tensor([[0.0, 1.0], [math.nan, 0.0]]), torch.zeros(2), 15, "logits of 1 of 2 examples are not finite"),
        (torch.tensor([[0.0, -math.inf]]), torch.zeros(1), 15, "logits of 1 of 1 examples are not finite"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), 15, r"labels span 0\.\.3, but the logits are of 3 classes"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), 15, r"labels span -1\.\.0"),
        (torch.zeros(2, 3), torch.zeros(2), 0, "at least one bin, got 0"),
    ],
)
def test_bad_input_is_named(logits, labels, bins, message):
    with pytest.raises(InputError, match=message):
        calibration(logits, labels, bins=bins)


@pytest.mark.parametrize(
    ("student", "teacher", "classes", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0, 2), None, "the student's logits must be"),
        (torch.zeros(2, 2), torch.zeros(3, 2), None, r"student's logits are \[2, 2\], but the teacher's \[3, 2\]"),
        (torch.zeros(1, 2), torch.tensor([[math.inf, 0]]), None, "the teacher's logits of 1 of 1 examples"),
        (torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0]), "2 numbers from 0 to 1"),
        (torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0, 2]), "2 numbers from 0 to 1"),
    ],
)
def test_bad_pairs_are_named(student, teacher, classes, message):
    with pytest.raises(InputError, match=message):
        compare_answers(student, teacher, classes=classes)


def test_one_bin_is_allowed_and_none_is_not():
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    (only,) = calibration(logits, labels, bins=1).bins
    assert (only.lower, only.upper, only.count, only.accuracy) == (0.0, 1.0, 2, 1.0)
    with pytest.raises(InputError):
        calibration(logits, labels, bins=0)

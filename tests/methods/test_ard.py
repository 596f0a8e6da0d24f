from copy import deepcopy

import pytest
import torch

from overproof import recipe
from overproof.attacks.ball import Radius
from overproof.attacks.pgd import PGD
from overproof.methods.ard import ARD

INNER = PGD(eps=Radius("0.1"), steps=3)


def softened(logits, temperature):
    raised = (logits / temperature).exp()
    return raised / raised.sum(dim=1, keepdim=True)


@pytest.fixture
def terms_by_hand(slow_pgd):
    """Return alpha t^2 KL(T^t(x) || S^t(x')) and (1 - alpha) CE(S(x), y), each averaged over the batch."""

    def terms(step, alpha, temperature, *, scale=1.0, student=None):
        student = student or deepcopy(step.student)  # BatchNorm statistics of the original stay
        torch.manual_seed(9)
        x_adv = slow_pgd(step.student, step.x, step.y, 0.1, 3)
        p = softened(step.teachers["robust"](step.x), temperature)
        q = softened(student(x_adv), temperature)
        divergence = (p * (p / q).log()).sum(dim=1)
        surprise = -softened(student(step.x), 1.0)[range(6), step.y].log()
        return alpha * temperature**2 * scale * divergence.mean(), (1 - alpha) * surprise.mean()

    return terms


@pytest.mark.parametrize(("alpha", "temperature"), [(0.9, 30.0), (0.25, 1.0), (0.0, 2.0)])
def test_the_loss_is_the_formula_of_the_card(alpha, temperature, make_step, only, terms_by_hand):
    method = ARD(alpha=alpha, temperature=temperature, inner=INNER)
    step = make_step(method, dtype=torch.float64)
    distil, label = terms_by_hand(step, alpha, temperature)
    terms = only(method, step)
    assert list(terms) == ["distil", "label"]
    torch.testing.assert_close(terms["distil"], distil)
    torch.testing.assert_close(terms["label"], label)


def test_gradients_are_those_of_the_formula(make_step, only, terms_by_hand):
    method = ARD(alpha=0.7, temperature=3.0, inner=INNER)
    step = make_step(method, dtype=torch.float64)
    copy = deepcopy(step.student)
    expected = torch.autograd.grad(sum(terms_by_hand(step, 0.7, 3.0, student=copy)), list(copy.parameters()))
    found = torch.autograd.grad(sum(only(method, step).values()), list(step.student.parameters()))
    torch.testing.assert_close(found, expected)


def test_class_scale_divides_the_divergence_by_the_number_of_classes(make_step, only, terms_by_hand):
    method = ARD(alpha=0.5, inner=INNER, kl_scale="class")
    step = make_step(method, dtype=torch.float64)
    distil, label = terms_by_hand(step, 0.5, 30.0, scale=1 / 4)
    terms = only(method, step)
    torch.testing.assert_close(terms["distil"], distil)
    torch.testing.assert_close(terms["label"], label)


def test_at_alpha_one_there_is_no_clean_pass(make_step, only, terms_by_hand):
    method = ARD(inner=INNER)
    step = make_step(method, dtype=torch.float64)
    expected, _ = terms_by_hand(step, 1.0, 30.0)
    terms = only(method, step)
    assert list(terms) == ["distil"]
    torch.testing.assert_close(terms["distil"], expected)
    assert batchnorm_updates(step, lambda: only(method, step)) == 1


def batchnorm_updates(step, run):
    before = int(step.student.backbone[1].num_batches_tracked)
    run()
    return int(step.student.backbone[1].num_batches_tracked) - before


def test_clean_forward_always_moves_batchnorm_and_adds_nothing(make_step, only):
    # The official code's clean pass has weight 0 at alpha 1, but BatchNorm sees the clean images.
    plain, always = ARD(inner=INNER), ARD(inner=INNER, clean_forward="always")
    one, other = make_step(plain, dtype=torch.float64), make_step(always, dtype=torch.float64)
    first, second = only(plain, one), only(always, other)
    assert second["label"] == 0
    torch.testing.assert_close(second["distil"], first["distil"])
    assert batchnorm_updates(other, lambda: only(always, other)) == 2
    means = [step.student.backbone[1].running_mean for step in (one, other)]
    assert not torch.allclose(*means)


@pytest.mark.parametrize(("mode", "updates"), [("eval", 1), ("train", 4)])
def test_a_search_in_train_mode_moves_batchnorm_at_every_step(mode, updates, make_step, only):
    method = ARD(inner=PGD(eps=Radius("0.1"), steps=3, mode=mode))
    step = make_step(method)
    assert batchnorm_updates(step, lambda: only(method, step)) == updates


def test_the_search_grows_with_the_run(make_step, only):
    ramped, fixed = (
        ARD(inner=PGD(eps=Radius("0.1"), steps=2, ramp=1.0)),
        ARD(inner=PGD(eps=Radius("0.05"), steps=2)),
    )
    half = only(ramped, make_step(ramped, dtype=torch.float64, progress=0.5))
    torch.testing.assert_close(half, only(fixed, make_step(fixed, dtype=torch.float64)))


def test_the_paper_preset_is_the_official_code():
    built = recipe.build_value(ARD, {"kind": "ard", "preset": "paper"})
    inner = PGD(steps=10, start="uniform", clip_start=False, mode="train")
    assert built == ARD(alpha=1.0, temperature=30.0, kl_scale="class", clean_forward="always", inner=inner)


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"alpha": 1.5}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_options_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} "):
        ARD(**options)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_teacher_is_asked_once_about_the_images_as_they_are(alpha, make_step, only):
    method = ARD(alpha=alpha, inner=INNER)
    step, asked = make_step(method), []
    step.teachers["robust"].register_forward_pre_hook(lambda _, args: asked.append(args[0]))
    only(method, step)
    assert len(asked) == 1 and torch.equal(asked[0], step.x)

import pytest
import torch

from overproof import recipe
from overproof.methods.kd import KD


def softened(logits, temperature):
    raised = (logits / temperature).exp()
    return raised / raised.sum(dim=1, keepdim=True)


def terms_by_hand(step, alpha, temperature, *, scale=1.0, label_temperature=1.0):
    """Return alpha t^2 KL(T^t || S^t) and (1 - alpha) CE, each averaged over the batch."""
    p = softened(step.teachers["robust"](step.x), temperature)
    z = step.student(step.x)
    divergence = (p * (p / softened(z, temperature)).log()).sum(dim=1)
    surprise = -softened(z, label_temperature)[range(len(z)), step.y].log()
    return alpha * temperature**2 * scale * divergence.mean(), (1 - alpha) * surprise.mean()


@pytest.mark.parametrize(("alpha", "temperature"), [(0.9, 4.0), (0.25, 1.0), (0.0, 2.0), (0.5, 30.0)])
def test_the_loss_is_the_formula_of_the_card(alpha, temperature, make_step, only):
    method = KD(alpha=alpha, temperature=temperature)
    step = make_step(method, dtype=torch.float64)
    distil, label = terms_by_hand(step, alpha, temperature)
    terms = only(method, step)
    assert list(terms) == ["distil", "label"]
    torch.testing.assert_close(terms["distil"], distil)
    torch.testing.assert_close(terms["label"], label)


def test_gradients_are_those_of_the_formula(make_step, only):
    method = KD(alpha=0.7, temperature=3.0)
    step = make_step(method, dtype=torch.float64)
    weights = list(step.student.parameters())
    expected = torch.autograd.grad(sum(terms_by_hand(step, 0.7, 3.0)), weights)
    found = torch.autograd.grad(sum(only(method, step).values()), weights)
    torch.testing.assert_close(found, expected)


def test_at_alpha_one_the_labels_are_not_read(make_step, only):
    method = KD(alpha=1.0)
    step = make_step(method, dtype=torch.float64)
    terms = only(method, step)
    assert list(terms) == ["distil"]
    torch.testing.assert_close(terms["distil"], terms_by_hand(step, 1.0, 4.0)[0])


def test_class_scale_divides_the_divergence_by_the_number_of_classes(make_step, only):
    method = KD(alpha=0.5, kl_scale="class")
    step = make_step(method, dtype=torch.float64)
    distil, label = terms_by_hand(step, 0.5, 4.0, scale=1 / 4)
    terms = only(method, step)
    torch.testing.assert_close(terms["distil"], distil)
    torch.testing.assert_close(terms["label"], label)


def test_tempered_labels_soften_the_students_logits_too(make_step, only):
    method = KD(alpha=0.5, temperature=5.0, tempered_labels=True)
    step = make_step(method, dtype=torch.float64)
    distil, label = terms_by_hand(step, 0.5, 5.0, label_temperature=5.0)
    terms = only(method, step)
    torch.testing.assert_close(terms["distil"], distil)
    torch.testing.assert_close(terms["label"], label)


def test_the_paper_preset_is_the_official_code():
    built = recipe.build_value(KD, {"kind": "kd", "preset": "paper"})
    assert built == KD(alpha=1.0, temperature=30.0, kl_scale="class", tempered_labels=True)


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"alpha": 1.5}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_options_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} "):
        KD(**options)


def test_the_teacher_is_asked_once_about_the_images_as_they_are(make_step, only):
    step, asked = make_step(KD()), []
    step.teachers["robust"].register_forward_pre_hook(lambda _, args: asked.append(args[0]))
    only(KD(), step)
    assert len(asked) == 1 and torch.equal(asked[0], step.x)

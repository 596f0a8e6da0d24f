"""``AutoAttack(model).evaluate(x, y)``: verdicts of the engine, images like those given, one sentence for bad input."""

import pytest
import torch
from torch import nn

from overproof.attacks.ball import ball
from overproof.attacks.pgd import PGD
from overproof.attacks.square import Square
from overproof.attacks.suites import AttackSpec
from overproof.errors import InputError
from overproof.evaluation.autoattack import AutoAttack

EPS = 0.05


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4))


@pytest.fixture
def x():
    return torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def labels(model, x):
    """Return what the model predicts, with three labels wrong."""
    with torch.no_grad():
        y = model.eval()(x).argmax(dim=1)
    model.train()
    y[:3] = (y[:3] + 1) % 4
    return y


@pytest.mark.parametrize("norm", ["Linf", "L2", "l1"])
def test_figures_are_those_of_the_images(norm, x, modes):
    model = network()
    y, eps = labels(model, x), {"Linf": EPS, "L2": 0.3, "l1": 3.0}[norm]
    was = modes(model)
    result = AutoAttack(model, norm, eps, suite="quick").evaluate(x, y)
    assert modes(model) == was and all(weight.grad is None for weight in model.parameters())
    with torch.no_grad():
        clean, attacked = (model.eval()(images).argmax(dim=1) == y for images in (x, result.x_adv))
    assert torch.equal(result.correct, clean) and int(clean.sum()) == 21 == round(24 * result.clean_accuracy)
    assert torch.equal(result.robust, attacked)
    assert 0 < result.robust_accuracy < result.clean_accuracy and result.robust_accuracy == int(attacked.sum()) / 24
    low, high = result.interval
    assert 0 <= low < result.robust_accuracy < high <= 1
    assert (ball(norm.lower(), eps).size(result.x_adv - x) <= eps * (1 + 1e-5)).all()
    same = (result.x_adv == x).flatten(1).all(dim=1)
    assert torch.equal(same, ~clean | attacked)  # the image itself, where nothing was found
    assert [name is not None for name in result.misclassified_by] == (clean & ~attacked).tolist()


def test_the_generator_and_the_seed(x):
    model = network()
    y = labels(model, x)
    attack = AutoAttack(model, eps=EPS, suite=(AttackSpec(name="one", attack=PGD(steps=1)),))
    torch.manual_seed(5)
    first = attack.evaluate(x, y)
    after = torch.rand(2)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(2), after)
    assert torch.equal(attack.evaluate(x, y).x_adv, first.x_adv)
    other = AutoAttack(model, eps=EPS, suite=(AttackSpec(name="one", attack=PGD(steps=1)),), seed=1).evaluate(x, y)
    assert not torch.equal(other.x_adv, first.x_adv)


def test_the_call_of_the_reference(x):
    model = network()
    y = labels(model, x)
    attack = AutoAttack(model, norm="Linf", eps=EPS, suite="quick", batch=10)
    assert torch.equal(attack.run_standard_evaluation(x, y, bs=10), attack.evaluate(x, y).x_adv)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_are_given_back_as_they_were(dtype, x):
    model = network().to(dtype).eval()
    images = x.to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        y = model(images).argmax(dim=1)
    result = AutoAttack(model, eps=EPS, suite="quick").evaluate(images, y)
    assert result.x_adv.dtype == dtype and result.x_adv.is_contiguous(memory_format=torch.channels_last)
    assert result.x_adv.amin() >= 0 and result.x_adv.amax() <= 1
    assert result.robust_accuracy < result.clean_accuracy == 1


def test_a_function_and_attacks_without_gradients(x):
    model = network().eval()
    y = labels(model, x)
    model.eval()

    def blind(pixels):
        with torch.no_grad():
            return model(pixels)

    result = AutoAttack(blind, eps=0.2, suite=(AttackSpec(name="square", attack=Square(queries=60)),)).evaluate(x, y)
    assert result.robust_accuracy < result.clean_accuracy
    with pytest.raises(InputError, match="apgd-ce needs gradients and the model gives none"):
        AutoAttack(blind, eps=EPS).evaluate(x, y)


def test_tables(x):
    model = network()
    result = AutoAttack(model, eps="4/255", suite="quick").evaluate(x, labels(model, x))
    text = result.table().splitlines()
    assert text[0] == "quick, linf 4/255, 24 images"
    assert [line.split("  ")[0] for line in text[3:7]] == ["clean", "after apgd-ce-20", "after apgd-t-20", "robust"]
    assert text[3].split()[1] == "87.5" and "the standard suite may break more" in text[7]
    html = result._repr_html_()
    assert html.count("<tr>") >= 5 and '<th scope="row" style="text-align:left">robust</th>' in html
    assert "robust accuracy" in repr(result) and "\n" not in repr(result)


def test_bad_input_is_one_sentence(x):
    model = network()
    y = labels(model, x)
    for change, sentence in (
        ({"suite": "standrad"}, "did you mean 'standard'"),
        ({"suite": ("apgd",)}, "a suite is its name"),
        ({"norm": "l3"}, "there is no norm"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"batch": 0}, "batch must be at least 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            AutoAttack(model, **change)
    attack = AutoAttack(model, suite="quick")
    for words, sentence in (
        ((x * 255, y), r"lie in \[0, 1\].*divide by 255"),
        (((x * 255).byte(), y), "divide by 255"),
        ((x, y.float()), "labels must be integers"),
        ((x, y[:4]), "24 images need as many labels"),
        ((x, y + 4), "outside 0..3"),
        ((x[:0], y[:0]), "there are no images"),
        ((x[0], y[:1]), r"must be \[N, C, H, W\]"),
    ):
        with pytest.raises(InputError, match=sentence) as found:
            attack.evaluate(*words)
        assert "\n" not in str(found.value)
    with pytest.raises(InputError, match="returns probabilities"):
        AutoAttack(lambda p: model(p).softmax(dim=1), suite="quick").evaluate(x, y)
    with pytest.raises(InputError, match="searches on a teacher"):
        AutoAttack(model, suite="mtard").evaluate(x, y)

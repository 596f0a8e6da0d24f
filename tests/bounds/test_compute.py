"""``compute_bounds(model, x)``: its bounds hold, are ordered by their methods, and refuse in one sentence."""

import itertools

import pytest
import torch
from torch import nn

from overproof.attacks.pgd import PGD
from overproof.bounds.compute import compute_bounds
from overproof.certification.on_tensors import certify
from overproof.errors import InputError

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")


def network(dtype=torch.float64):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 12), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(12, 3)).to(dtype)


@pytest.fixture
def x():
    return torch.rand(5, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", ["linf", "L2"])
@pytest.mark.parametrize("method", METHODS)
def test_no_image_of_the_region_leaves_the_bounds(method, norm, x):
    model, eps = network().eval(), "1/10"
    lower, upper = compute_bounds(model, x, eps=eps, norm=norm, method=method)
    assert lower.shape == upper.shape == (5, 3) and lower.dtype == torch.float64
    assert (lower <= upper).all()
    for logit in range(3):
        for sign in (1, -1):
            attack = PGD(eps=eps, norm=norm, steps=20, best=True)
            found = attack(model, x, lambda p, sign=sign, logit=logit: sign * model(p)[:, logit])
            with torch.no_grad():
                reached = model(found)
            # float64: what rounding may do is far below this
            assert (reached <= upper + 1e-9).all() and (reached >= lower - 1e-9).all()


def test_dearer_methods_are_tighter(x):
    model = network().eval()
    widths = []
    for method in METHODS:
        lower, upper = compute_bounds(model, x, eps=0.1, method=method)
        widths.append(upper - lower)
    for loose, tight in itertools.pairwise(widths):
        assert (tight <= loose + 1e-9).all()
    assert (widths[-1] < widths[0]).all()


def test_modes_come_back_and_eval_is_what_is_bounded(x, modes):
    model = network().train()
    was = modes(model)
    lower, upper = compute_bounds(model, x, eps="1/255")
    assert modes(model) == was
    with torch.no_grad():
        logits = model.eval()(x)
    assert (lower <= logits).all() and (logits <= upper).all()


@pytest.mark.parametrize("method", METHODS)
def test_gradients_flow_through_intervals_alone(method, x):
    model = network()
    lower, _ = compute_bounds(model, x, eps="1/255", method=method)
    assert lower.requires_grad == (method in ("ibp", "crown-ibp"))
    with torch.no_grad():
        assert not compute_bounds(model, x, eps="1/255", method=method).lower.requires_grad
    if lower.requires_grad:
        lower.sum().backward()
        assert all(weight.grad is not None for weight in model.parameters())


def test_examples_are_bounded_in_parts_as_together(x, monkeypatch):
    model = network()
    whole = compute_bounds(model, x, eps=0.05)
    monkeypatch.setattr("overproof.bounds.compute._ROWS", 1)
    for one, other in zip(whole, compute_bounds(model, x, eps=0.05), strict=True):
        torch.testing.assert_close(one, other)


def test_no_images_have_no_bounds(x):
    lower, upper = compute_bounds(network(), x[:0], eps=0.1)
    assert lower.shape == upper.shape == (0, 3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode, x):
    model = network()
    wanted = compute_bounds(model, x, eps=0.1, method="alpha-crown")
    with mode():
        found = compute_bounds(model, x.clone(), eps=0.1, method="alpha-crown")
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(one, other)


def test_what_cannot_be_bounded_is_one_sentence(x):
    model = network()
    odd = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Hardshrink(), nn.Linear(8, 3)).double()
    cases = [
        ((odd, x), {}, "Hardshrink"),
        ((lambda p: p, x), {}, "need an nn.Module"),
        ((model, x * 3), {}, r"lie in \[0, 1\]"),
        ((model, x.float()), {}, "weights are torch.float64 and the images torch.float32"),
        ((network(torch.bfloat16), x.bfloat16()), {}, "mostly rounding"),
        ((model, x), {"norm": "l1"}, "linf and l2"),
        ((model, x), {"norm": "l7"}, "there is no norm"),
        ((model, x), {"eps": "8"}, "did you mean 8/255"),
        ((model, x), {"eps": "x"}, "cannot read 'x'"),
        ((model, x), {"method": "crwn"}, "did you mean 'crown'"),
    ]
    for words, options, sentence in cases:
        with pytest.raises(InputError, match=sentence) as found:
            compute_bounds(*words, **{"eps": "1/255", **options})
        assert "\n" not in str(found.value)


class Quotient(nn.Module):
    """One over what may be zero within a large region."""

    def __init__(self):
        super().__init__()
        self.head, self.last = nn.Linear(16, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(1 / self.head(x.flatten(1)))


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown", "alpha-crown"])
def test_bounds_are_infinite_where_nothing_is_known_and_prove_nothing(method):
    torch.manual_seed(0)
    model = Quotient().double().eval()
    images = torch.rand(2, 1, 4, 4).double()
    lower, upper = compute_bounds(model, images, eps=0.5, method=method)
    assert (lower == -torch.inf).all() and (upper == torch.inf).all()
    single = model.float()
    result = certify(single, images.float(), single(images.float()).argmax(dim=1), eps=0.5, seconds=0.5)
    assert "verified" not in result.verdicts

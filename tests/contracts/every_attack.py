"""What holds for every attack, in every norm, whatever its options."""

from dataclasses import replace

import pytest
import torch

from overproof.attacks.ball import Radius, ball
from overproof.attacks.pgd import PGD
from overproof.functional import cross_entropy, dlr, margin
from overproof.models.weights import freeze

BALLS = {
    "linf": ("linf", Radius("8/255")),
    "linf-large": ("linf", Radius("0.6")),
    "l2": ("l2", Radius("0.5")),
    "l2-large": ("l2", Radius("4")),
    "l1": ("l1", Radius("3")),
    "l1-tiny": ("l1", Radius("1e-3")),
}
VARIANTS = {
    "pgd": PGD(steps=3),
    "fgsm": PGD(steps=1, start="none"),
    "normal": PGD(steps=3, start="normal"),
    "unclipped": PGD(steps=3, clip_start=False),
    "long-step": PGD(steps=3, step=Radius("1")),
    "best": PGD(steps=3, best=True, start="none"),
    "best-normal": PGD(steps=3, best=True, start="normal"),
    "restarts": PGD(steps=2, restarts=3),
    "best-restarts": PGD(steps=2, restarts=2, best=True),
    "ramped": PGD(steps=3, ramp=0.5).at(0.01),
}
every_attack = pytest.mark.parametrize(
    "attack",
    [
        pytest.param(replace(variant, norm=norm, eps=eps), id=f"{name}-{threat}")
        for name, variant in VARIANTS.items()
        for threat, (norm, eps) in BALLS.items()
    ],
)


@pytest.fixture
def model(tiny_classifier):
    """Return a network in train mode with one BatchNorm that its owner froze."""
    network = tiny_classifier()
    network.backbone[1].eval()
    return network


def found_by(attack, model, batch, score=cross_entropy, seed=5):
    torch.manual_seed(seed)
    return attack(model, batch.x, lambda x: score(model(x), batch.y))


def assert_inside(attack, x_adv, x):
    assert x_adv.isfinite().all()
    assert (x_adv >= 0).all() and (x_adv <= 1).all()
    # Rounding of x + delta: half a unit in the last place of a pixel, for each pixel.
    slack = x[0].numel() ** (0 if attack.norm == "linf" else 1) * torch.finfo(x.dtype).eps
    assert (ball(attack.norm, attack.eps).size(x_adv - x) <= attack.eps + slack).all()


@every_attack
def test_the_result_is_an_image_inside_the_ball_without_a_graph(attack, model, tiny_batch):
    x_adv = found_by(attack, model, tiny_batch)
    assert_inside(attack, x_adv, tiny_batch.x)
    assert (x_adv.shape, x_adv.dtype, x_adv.device) == (tiny_batch.x.shape, tiny_batch.x.dtype, tiny_batch.x.device)
    assert not x_adv.requires_grad
    assert not torch.equal(x_adv, tiny_batch.x)


@every_attack
def test_the_seed_decides_the_result(attack, model, tiny_batch):
    first, again = (found_by(attack, model, tiny_batch) for _ in range(2))
    assert torch.equal(first, again)
    if attack.start == "none":
        assert torch.equal(found_by(attack, model, tiny_batch, seed=6), first)


@every_attack
def test_the_model_is_as_before(attack, model, tiny_batch, modes):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    was = modes(model)
    x = tiny_batch.x.clone()
    found_by(attack, model, tiny_batch)
    assert torch.equal(tiny_batch.x, x)
    assert modes(model) == was
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in model.parameters())


@every_attack
def test_a_frozen_model_can_be_attacked(attack, model, tiny_batch):
    expected = found_by(attack, model, tiny_batch)
    assert torch.equal(found_by(attack, freeze(model), tiny_batch), expected)


@every_attack
@pytest.mark.parametrize("score", [lambda logits, y: -margin(logits, y), dlr], ids=["margin", "dlr"])
def test_any_score_may_be_climbed(attack, score, model, tiny_batch):
    assert_inside(attack, found_by(attack, model, tiny_batch, score), tiny_batch.x)


@every_attack
def test_float64_and_a_single_example_work(attack, tiny_classifier, tiny_batch):
    model = tiny_classifier(dtype=torch.float64)
    one = tiny_batch._replace(x=tiny_batch.x[:1].double(), y=tiny_batch.y[:1])
    x_adv = found_by(attack, model, one)
    assert x_adv.dtype == torch.float64
    assert_inside(attack, x_adv, one.x)


@every_attack
def test_a_flat_score_does_no_harm(attack, model, tiny_batch):
    x_adv = found_by(attack, model, tiny_batch, lambda logits, y: 0 * logits.sum(dim=1))
    assert_inside(attack, x_adv, tiny_batch.x)


@every_attack
def test_it_climbs(attack, model, tiny_batch):
    # Not each example each time, unless the best is kept from the image itself on; but on average.
    x_adv = found_by(attack, model, tiny_batch)
    model.eval()
    gained = cross_entropy(model(x_adv), tiny_batch.y) - cross_entropy(model(tiny_batch.x), tiny_batch.y)
    if attack.best and attack.start == "none":
        assert (gained >= 0).all()
    assert gained.mean() > 0

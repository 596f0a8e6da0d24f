"""What holds for every attack, in every ball."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from overproof.attacks.ball import Radius, ball
from overproof.attacks.base import BaseAttack
from overproof.attacks.objectives import Loss, Misclassification
from overproof.attacks.radius import Norm
from overproof.building import build_value, plain
from overproof.data.images import Batch
from overproof.functional import cross_entropy, dlr
from overproof.models.classifier import Classifier
from overproof.models.mode import in_mode
from overproof.models.weights import freeze
from overproof.testing.toys import modes, tiny_batch, tiny_classifier
from overproof.trust import Code

BALLS: Mapping[str, tuple[Norm, Radius]] = {
    "linf": ("linf", Radius("8/255")),
    "linf-large": ("linf", Radius("0.6")),
    "l2": ("l2", Radius("0.5")),
    "l2-large": ("l2", Radius("4")),
    "l1": ("l1", Radius("3")),
    "l1-tiny": ("l1", Radius("1e-3")),
}
"""Norms and radii by name, large and tiny ones among them."""
_OWN = Code(own=True)
_SCORES: Mapping[Loss, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": cross_entropy, "dlr": dlr}


class AttackContract:
    """Derive a class ``TestMine`` from it and set ``make``: your class, or a function that returns an attack.

    ``norms`` are those that it is defined for. To test several, override the fixture ``attack`` with parameters.
    """

    make: Callable[[], BaseAttack]
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Let every test meet each ball of ``norms``."""
        if "threat" in metafunc.fixturenames:
            metafunc.parametrize("threat", [name for name, (norm, _) in BALLS.items() if norm in self.norms])

    @pytest.fixture
    def attack(self, threat: str) -> BaseAttack:
        """Return the attack that is tested, in one ball after the other."""
        return type(self).make().under(*BALLS[threat])

    @pytest.fixture
    def model(self) -> Classifier:
        """Return a network in train mode with one BatchNorm that its owner froze."""
        network = tiny_classifier()
        next(iter(layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d))).eval()
        return network

    def test_the_result_is_an_image_inside_the_ball_and_all_else_is_as_before(
        self, attack: BaseAttack, model: Classifier
    ) -> None:
        """It returns new, detached images in the ball and in [0, 1]; images, weights, gradients and modes stay."""
        batch = rightly(model, tiny_batch())
        before, was = {name: value.clone() for name, value in model.state_dict().items()}, modes(model)
        x = batch.x.clone().requires_grad_()
        x_adv = found_by(attack, model, batch._replace(x=x))
        assert_inside(attack, x_adv, batch.x)
        assert (x_adv.shape, x_adv.dtype, x_adv.device) == (batch.x.shape, batch.x.dtype, batch.x.device)
        assert not x_adv.requires_grad
        assert torch.equal(x, batch.x) and x.grad is None and x_adv.data_ptr() != x.data_ptr()
        assert modes(model) == was
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(value.grad is None and value.requires_grad for value in model.parameters())

    def test_the_seed_decides_the_result(self, attack: BaseAttack, model: Classifier) -> None:
        """Draws come from torch's global generator: the same seed, the same images."""
        batch = rightly(model, tiny_batch())
        first, again = (found_by(attack, model, batch) for _ in range(2))
        assert torch.equal(first, again)

    def test_a_frozen_model_can_be_attacked_where_gradients_are_switched_off(
        self, attack: BaseAttack, model: Classifier
    ) -> None:
        """It switches on the gradients that it needs, and needs none of the weights."""
        batch = rightly(model, tiny_batch())
        expected = found_by(attack, model, batch)
        with torch.no_grad():
            assert torch.equal(found_by(attack, freeze(model), batch), expected)

    def test_it_makes_images_worse_where_there_is_room(self, attack: BaseAttack, model: Classifier) -> None:
        """In a large ball the mean cross-entropy rises: it does not give back what it was given."""
        whole = {"linf": Radius("0.6"), "l2": Radius("8"), "l1": Radius("100")}[attack.norm]
        batch = rightly(model, tiny_batch())
        x_adv = found_by(attack.under(attack.norm, whole), model, batch)
        with in_mode(model, training=False), torch.no_grad():
            gained = cross_entropy(model(x_adv), batch.y) - cross_entropy(model(batch.x), batch.y)
        assert gained.mean() > 0

    def test_float64_and_a_single_example_work(self, attack: BaseAttack) -> None:
        """A batch of one, in float64, is attacked in float64."""
        model = tiny_classifier(dtype=torch.float64).eval()
        batch = rightly(model, Batch(tiny_batch().x.double(), tiny_batch().y))
        one = Batch(batch.x[:1], batch.y[:1])
        x_adv = found_by(attack, model, one)
        assert x_adv.dtype == torch.float64
        assert_inside(attack, x_adv, one.x)

    def test_other_scores_may_be_maximised(self, attack: BaseAttack) -> None:
        """Whatever score it is told to maximise, its images are in the ball."""
        model = tiny_classifier(dtype=torch.float64).eval()
        batch = rightly(model, Batch(tiny_batch().x.double(), tiny_batch().y))
        for score in _SCORES:
            assert_inside(attack, found_by(attack, model, batch, score), batch.x)

    def test_a_flat_network_does_no_harm(self, attack: BaseAttack, model: Classifier) -> None:
        """Of a network that answers the same to everything it returns images in the ball, and each was looked at."""
        batch = tiny_batch()
        y = torch.zeros_like(batch.y)  # what all equal logits say
        goal = Misclassification.on(lambda x: 0 * model(x), y, loss="margin")
        assert_inside(attack, attack(model, batch.x, objective=goal), batch.x)
        assert (goal.cost.forward > 0).all()

    def test_labels_are_enough(self, attack: BaseAttack, model: Classifier) -> None:
        """``attack(model, x, y)`` works, for images of half precision too, and in inference mode."""
        batch = rightly(model, tiny_batch())
        for x in (batch.x, batch.x.bfloat16()):
            network = model.to(x.dtype)
            with torch.inference_mode():
                x_adv = attack(network, x, batch.y)
            assert x_adv.dtype == x.dtype and x_adv.shape == x.shape
            assert (x_adv >= 0).all() and (x_adv <= 1).all()

    def test_a_recipe_rebuilds_it(self, attack: BaseAttack) -> None:
        """What a recipe says of it is read back as an equal value."""
        assert build_value(BaseAttack, plain(attack), code=_OWN) == attack
        assert isinstance(hash(attack), int)


def rightly(model: Classifier, batch: Batch) -> Batch:
    """Return the batch with labels that the network gives: no image is misclassified yet."""
    return batch._replace(y=predictions(model, batch.x))


def predictions(model: Classifier, x: Tensor) -> Tensor:
    """Return the classes ``[N]`` that a network gives in eval mode."""
    with in_mode(model, training=False), torch.no_grad():
        classes: Tensor = model(x).argmax(dim=1)
    return classes


def found_by(
    attack: BaseAttack, model: Classifier, batch: Batch, score: Loss = "cross_entropy", seed: int = 5
) -> Tensor:
    """Return what is found for a score; one that must know who is misclassified is told."""
    torch.manual_seed(seed)
    if attack.needs_goal:
        return attack(model, batch.x, objective=Misclassification.on(model, batch.y, loss=score))
    return attack(model, batch.x, objective=lambda x: _SCORES[score](model(x), batch.y))


def assert_inside(attack: BaseAttack, x_adv: Tensor, x: Tensor) -> None:
    """Assert that images are finite, in [0, 1] and within eps of ``x``, but for rounding."""
    assert x_adv.isfinite().all()
    assert (x_adv >= 0).all() and (x_adv <= 1).all()
    # Rounding of x + delta: half a unit in the last place of a pixel, for each pixel.
    slack = x[0].numel() ** (0 if attack.norm == "linf" else 1) * torch.finfo(x.dtype).eps
    assert (ball(attack.norm, attack.eps).size(x_adv - x) <= attack.eps + slack).all()


def in_balls(attacks: Mapping[str, BaseAttack], where: Callable[[BaseAttack, str], bool]) -> list[Any]:
    """Return every attack in each ball that ``where`` lets pass, as parameters of a fixture or of a test."""
    return [
        pytest.param(replace(attack, norm=norm, eps=eps), id=f"{name}-{threat}")  # type: ignore[type-var]
        for name, attack in attacks.items()
        for threat, (norm, eps) in BALLS.items()
        if where(attack, threat)
    ]

import pytest
import torch

from overproof.attacks.pgd import PGD
from overproof.methods.fare import FARE
from overproof.models.adapted import FeatureAdapter
from overproof.models.architectures.mlp import MLP
from overproof.models.weights import build
from overproof.signature import Signature
from overproof.training.soft_labels import needs_no_labels

from .by_hand import ADV, X, ce, equal, gradients, maximises, only, step_of, tell


def hidden(net, x):
    return net.backbone[2](net.backbone[1](net.backbone[0](x)))


@pytest.mark.parametrize("label_weight", [0.0, 0.3])
def test_terms_are_the_formula(label_weight, monkeypatch):
    tell(monkeypatch)
    method = FARE(label_weight=label_weight)
    step = step_of(method)
    student, original = step.student, step.teachers["clean"]
    hand = {"features": ((hidden(student, ADV) - hidden(original, X)) ** 2).sum(dim=1).mean()}
    if label_weight:
        hand["label"] = label_weight * ce(student(X)).mean()
    equal(only(method.losses(step)), hand, student)


def test_the_search_maximises_the_same_distance_and_the_original_is_asked_once_about_the_clean_image(monkeypatch):
    told = tell(monkeypatch)
    method = FARE(inner=PGD(ramp=0.5))
    step = step_of(method, progress=0.25)
    asked, original = [], step.teachers["clean"]
    features = original.features
    monkeypatch.setattr(original, "features", lambda x: asked.append(x) or features(x))
    only(method.losses(step))
    assert told.searches == [method.inner.at(0.25)]
    assert len(asked) == 1 and torch.equal(asked[0], X)
    wanted = hidden(original, X)
    maximises(told, lambda x: ((hidden(step.student, x) - wanted) ** 2).sum(dim=1))


def test_without_labels_the_head_has_a_gradient_of_zero(monkeypatch):
    tell(monkeypatch)
    step = step_of(FARE())
    terms = only(FARE().losses(step))
    *body, weight, bias = gradients(terms["features"], step.student)
    assert not weight.any() and not bias.any() and all(one.any() for one in body)


def test_it_needs_no_labels_unless_they_have_weight():
    assert needs_no_labels(FARE()) and not needs_no_labels(FARE(label_weight=0.1))


def test_a_student_of_another_width_gets_an_adapter():
    signature = Signature(channels=1, height=4, width=4, classes=3)
    original = build(MLP(hidden=(7,)), signature)
    same, other = (FARE().adapt_student(MLP(hidden=(width,)), {"clean": original}) for width in (7, 5))
    assert same == MLP(hidden=(7,)) and other == FeatureAdapter(base=MLP(hidden=(5,)), features=7)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"^label_weight is a weight and cannot be negative, got -1.0$"):
        FARE(label_weight=-1.0)

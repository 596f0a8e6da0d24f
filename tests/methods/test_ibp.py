import pytest
import torch
from torch import nn

from overproof.attacks.ball import Radius, Threat
from overproof.methods.certified import graph_of, propagated
from overproof.methods.ibp import IBP
from overproof.models.classifier import Classifier
from overproof.signature import Signature

from .by_hand import X, Y, ce, counting, descend, equal, looked, only, step_of
from .by_relu import relu_network, worst_ce

THREAT = Threat(eps=Radius("0.1"))


@pytest.mark.parametrize("kappa", [(1.0, 0.5), (0.2, 0.8), (0.0, 0.3)])
@pytest.mark.parametrize(("progress", "share"), [(0.1, 0.25), (0.3, 0.75), (0.4, 1.0), (1.0, 1.0)])
def test_terms_are_the_formula(kappa, progress, share):
    method = IBP(threat=THREAT, ramp=0.4, kappa=kappa, balance=0.0, scaled_start=False)
    step = step_of(method, student=relu_network(), progress=progress)
    mix = kappa[0] + share * (kappa[1] - kappa[0])
    hand = {
        "label": mix * ce(step.student(X)).mean(),
        "certified": (1 - mix) * worst_ce(step.student, X, 0.1 * share).mean(),
    }
    equal(only(method.losses(step)), hand, step.student)


def test_the_regulariser_fades_over_the_ramp_and_is_then_not_computed():
    method = IBP(threat=THREAT, ramp=0.5, balance=0.8)
    student = relu_network()
    terms = only(method.losses(step_of(method, student=student, progress=0.2)))
    whole = propagated(student, X, 0.4 * 0.1, "linf").imbalance()
    torch.testing.assert_close(terms["balance"], 0.6 * 0.8 * whole)
    assert whole > 0
    assert list(only(method.losses(step_of(method, student=student, progress=0.5)))) == ["label", "certified"]


@pytest.mark.parametrize(("scaled", "progress", "moved"), [(True, 0.0, True), (True, 0.01, False), (False, 0.0, False)])
def test_the_weights_are_scaled_at_the_first_update_only(scaled, progress, moved):
    method = IBP(threat=THREAT, scaled_start=scaled)
    step = step_of(method, student=relu_network(), progress=progress)
    before = [value.detach().clone() for value in step.student.parameters()]
    only(method.losses(step))
    changed = any(not torch.equal(old, new) for old, new in zip(before, step.student.parameters(), strict=True))
    assert changed == moved


def test_at_a_kappa_of_zero_there_is_no_clean_pass():
    method = IBP(threat=THREAT, kappa=(0.0, 0.0))
    step = step_of(method, student=relu_network())
    graph_of(step.student, X)  # a copy is run once while it is traced, and hooks are copied with it
    asked = counting(step.student)
    (name,) = only(method.losses(step))
    assert name == "certified" and not asked


@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_batchnorm_learns_from_the_clean_batch_once(kappa, make_step):
    method = IBP(kappa=(kappa, kappa))
    step = make_step(method)
    only(method.losses(step))
    assert looked(step.student) == 1


def test_it_makes_two_separable_clouds_certifiable():
    """Pixel 0 tells the class by 0.5 and withstands 0.2; pixel 1 tells it by 0.2 and does not."""
    torch.manual_seed(0)
    y = torch.arange(64) % 2
    x = torch.stack([0.25 + 0.5 * y, 0.4 + 0.2 * y], dim=1) + 0.02 * torch.rand(64, 2)
    x = x.view(64, 1, 1, 2)
    signature = Signature(channels=1, height=1, width=2, classes=2)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    student, method = Classifier(layers, signature), IBP(threat=Threat(eps=Radius("0.2")))

    def certified():
        around = propagated(student, x, 0.2, "linf")
        return float((around.margins(y).upper < 0).all(dim=1).float().mean())

    assert certified() < 0.6
    for update in range(400):
        step = step_of(method, x=x, y=y, student=student, progress=update / 399)
        descend(method.losses(step), student, rate=0.5)
    assert certified() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threat": Threat(norm="l1", eps=Radius("1"))}, "there are bounds for the norms linf and l2, not for l1"),
        ({"ramp": 2.0}, r"ramp is a share and must be in \[0, 1\], got 2"),
        ({"kappa": (1.0, -0.5)}, r"kappa is a share and must be in \[0, 1\], got 1, -0.5"),
        ({"balance": -1.0}, "balance is a weight and cannot be negative, got -1.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        IBP(**options)


def test_a_ball_in_l2_is_bounded_by_its_box():
    method = IBP(threat=Threat(norm="l2", eps=Radius("0.1")), ramp=0.0, scaled_start=False)
    step = step_of(method, student=relu_network())
    torch.testing.assert_close(only(method.losses(step))["certified"], 0.5 * worst_ce(step.student, X, 0.1, Y).mean())

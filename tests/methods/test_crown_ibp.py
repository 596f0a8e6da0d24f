import pytest
import torch

from overproof.attacks.ball import Radius, Threat
from overproof.methods.certified import propagated
from overproof.methods.crown_ibp import CROWNIBP
from overproof.methods.ibp import IBP

from .by_hand import X, Y, ce, equal, only, step_of
from .by_relu import before_relus, box, relu_network

THREAT = Threat(eps=Radius("0.1"))


def crown_by_hand(student, x, eps, y=Y):
    """Return lower bounds of ``z_y - z_j``: each ReLU between two lines, the matrices multiplied out for each image."""
    conv, _, _, hidden, _, head = student.backbone
    low, high = box(x, eps)
    (first, second), _ = before_relus(student, low, high)
    basis = torch.eye(18, dtype=x.dtype).view(18, 2, 3, 3)
    shift = conv(torch.zeros_like(basis[:1])).flatten()
    matrix = (conv(basis).flatten(1) - shift).T
    found = []
    for n, own in enumerate(y.tolist()):
        for j in (j for j in range(4) if j != own):
            row, constant = head.weight[own] - head.weight[j], head.bias[own] - head.bias[j]
            for (lower, upper), weight, bias in ((second, hidden.weight, hidden.bias), (first, matrix, shift)):
                l, u = lower[n].flatten(), upper[n].flatten()  # noqa: E741
                opened = (l < 0) & (u > 0)
                chord = torch.where(opened, u / (u - l), (u > 0).to(u))
                below = torch.where(opened, (u > -l).to(u), (u > 0).to(u))
                constant = constant + torch.where(opened & (row < 0), -row * chord * l, 0).sum()
                row = row * torch.where(row > 0, below, chord)
                constant, row = constant + row @ bias, row @ weight
            centre, radius = (high[n] + low[n]).flatten() / 2, (high[n] - low[n]).flatten() / 2
            found.append(row @ centre - row.abs() @ radius + constant)
    return torch.stack(found).view(len(y), 3)


@pytest.mark.parametrize(("progress", "share"), [(0.1, 0.25), (0.4, 1.0)])
def test_terms_are_the_formula(progress, share):
    method = CROWNIBP(threat=THREAT, ramp=0.4, beta=(1.0, 0.4), balance=0.0, scaled_start=False)
    step = step_of(method, student=relu_network(), progress=progress)
    kappa, beta = 1 - 0.5 * share, 1 - 0.6 * share
    interval = -propagated(step.student, X, share * 0.1, "linf").margins(Y).upper
    least = beta * crown_by_hand(step.student, X, share * 0.1) + (1 - beta) * interval
    hand = {
        "label": kappa * ce(step.student(X)).mean(),
        "certified": (1 - kappa) * torch.log(1 + torch.exp(-least).sum(dim=1)).mean(),
    }
    equal(only(method.losses(step)), hand, step.student)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_without_its_linear_bounds_it_is_ibp(progress):
    found, wanted = (
        only(method.losses(step_of(method, student=relu_network(), progress=progress)))
        for method in (CROWNIBP(threat=THREAT, beta=(0.0, 0.0)), IBP(threat=THREAT))
    )
    assert found == wanted


@pytest.mark.parametrize("beta", [(1.1, 0.0), (1.0, -0.1)])
def test_a_beta_that_is_no_share_is_refused(beta):
    with pytest.raises(ValueError, match=r"^beta is a share and must be in \[0, 1\], got "):
        CROWNIBP(beta=beta)


def test_a_norm_without_bounds_is_refused():
    with pytest.raises(ValueError, match="not for l1"):
        CROWNIBP(threat=Threat(norm="l1", eps=Radius("1")))

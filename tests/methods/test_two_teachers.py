import pytest
import torch

from overproof.data.images import Batch
from overproof.methods.b_mtard import BMTARD
from overproof.methods.mtard import MTARD
from overproof.methods.two_teachers import rebalanced

from .by_hand import X, equal, only, step_of, tell

both = pytest.mark.parametrize("method", [MTARD(), BMTARD()], ids=lambda method: method.kind)


def memory(method, like):
    return method.initial_state(Batch(like, torch.zeros(len(like), dtype=torch.int64)))


@both
def test_the_memory_is_of_the_images_type(method):
    for dtype in (torch.float32, torch.float64):
        assert {value.dtype for value in memory(method, X.to(dtype)).values()} == {dtype}


def test_no_gradient_flows_through_the_weights():
    losses = torch.tensor([1.0, 3.0], requires_grad=True)
    state = memory(MTARD(), X.float())
    state["initial"] = torch.ones(2)
    weights = rebalanced(state, losses, 0.5, 1.0)
    assert not weights.requires_grad and weights.tolist() == pytest.approx([0.375, 0.625])
    (weights * losses).sum().backward()
    assert losses.grad.tolist() == pytest.approx(weights.tolist())


def test_at_fixed_temperatures_the_balanced_form_is_the_plain_one(monkeypatch):
    tell(monkeypatch)
    plain, balanced = MTARD(), BMTARD(temper_rate=0.0)
    step = step_of(plain)
    tempered = step_of(balanced, student=step.student, teachers=step.teachers)
    equal(only(balanced.losses(tempered)), only(plain.losses(step)), step.student)


@pytest.mark.parametrize("kind", [MTARD, BMTARD])
def test_a_rate_outside_of_its_bounds_is_refused(kind):
    with pytest.raises(ValueError, match=r"^balance_rate is a step towards a target and must be in \[0, 1\], got 2$"):
        kind(balance_rate=2)

import math

import pytest
import torch

from overproof.clamp import clamp


@pytest.mark.parametrize(("low", "high"), [(-0.5, 0.75), (-math.inf, 0.75), (-0.5, math.inf), (0.25, 0.25)])
def test_clamp_keeps_the_gradient_at_its_ends(low, high):
    x = torch.tensor([-1.0, -0.5, 0.0, 0.25, 0.75, 2.0, -math.inf, math.inf], requires_grad=True)
    found = clamp(x, low, high)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.equal(found, x.clamp(low, high))
    assert torch.equal(gradient, ((x >= low) & (x <= high)).float())
    assert clamp(x.bfloat16(), low, high).dtype == torch.bfloat16
    assert clamp(torch.tensor([math.nan]), low, high).isnan().all()

import pytest
import torch

from overproof.attacks.ball import Radius
from overproof.attacks.pgd import PGD
from overproof.methods.pgd_at import PGDAT


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_cross_entropy_at_the_worst_image(smoothing, make_step, only, slow_pgd, answers):
    method = PGDAT(inner=PGD(eps=Radius("0.1"), steps=3), label_smoothing=smoothing)
    step = make_step(method, dtype=torch.float64)
    torch.manual_seed(9)
    z = answers(step.student, slow_pgd(step.student, step.x, step.y, 0.1, 3)).detach()
    surprise = z.exp().sum(dim=1, keepdim=True).log() - z
    expected = (1 - smoothing) * surprise[range(6), step.y].mean() + smoothing * surprise.mean()
    terms = only(method, step)
    assert list(terms) == ["adv"]
    torch.testing.assert_close(terms["adv"], expected)


def test_the_search_grows_with_the_run(make_step, only, slow_pgd, answers):
    method = PGDAT(inner=PGD(eps=Radius("0.2"), steps=2, ramp=0.8))
    losses = []
    for progress, eps in ((0.2, 0.05), (0.4, 0.1), (0.8, 0.2), (1.0, 0.2)):
        step = make_step(method, dtype=torch.float64, progress=progress)
        torch.manual_seed(9)
        x_adv = slow_pgd(step.student, step.x, step.y, eps, 2)
        expected = torch.nn.functional.cross_entropy(answers(step.student, x_adv), step.y)
        losses.append(only(method, step)["adv"])
        torch.testing.assert_close(losses[-1], expected)
    assert len({float(loss.detach()) for loss in losses}) == 3


def test_it_listens_to_nobody():
    assert PGDAT().roles == ()

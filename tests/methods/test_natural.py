import pytest
import torch

from overproof.methods.natural import Natural


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy_on_the_images_as_they_are(smoothing, make_step, only):
    method = Natural(label_smoothing=smoothing)
    step = make_step(method, dtype=torch.float64)
    z = step.student(step.x).detach()
    surprise = z.exp().sum(dim=1, keepdim=True).log() - z
    expected = (1 - smoothing) * surprise[range(6), step.y].mean() + smoothing * surprise.mean()
    terms = only(method, step)
    assert list(terms) == ["label"]
    torch.testing.assert_close(terms["label"], expected)


def test_it_listens_to_nobody():
    assert Natural().roles == ()

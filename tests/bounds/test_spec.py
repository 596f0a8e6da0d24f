import pytest
import torch

from overproof.bounds.spec import logits, margins


@pytest.mark.parametrize("k", [2, 3, 10])
def test_margins_are_the_class_less_every_other_in_order(k):
    z = torch.randn(k + 1, k)
    classes = torch.arange(k + 1) % k
    rows = margins(classes, k)
    assert rows.shape == (k + 1, k - 1, k)
    found = torch.einsum("nsk,nk->ns", rows, z)
    for n, c in enumerate(classes.tolist()):
        others = [j for j in range(k) if j != c]
        torch.testing.assert_close(found[n], z[n, c] - z[n, others])


def test_all_margins_are_positive_where_the_class_is_predicted():
    z = torch.randn(50, 4)
    classes = torch.randint(4, (50,))
    smallest = torch.einsum("nsk,nk->ns", margins(classes, 4), z).amin(dim=1)
    assert torch.equal(smallest > 0, z.argmax(dim=1) == classes)


def test_logits_are_themselves():
    z = torch.randn(3, 5)
    rows = logits(3, 5)
    assert rows.shape == (3, 5, 5)
    assert torch.equal(torch.einsum("nsk,nk->ns", rows, z), z)

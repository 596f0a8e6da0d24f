import math

import pytest
import torch
from torch import nn

from overproof.diagnostics.parity import BATCHES, Paired, same_logits
from overproof.errors import InputError


class Off(nn.Module):
    """The network, off by so much at one batch size."""

    def __init__(self, network, by, batch=64):
        super().__init__()
        self.network, self.by, self.batch, self.seen = network, by, batch, []

    def forward(self, x):
        self.seen.append(x)
        return self.network(x) + (self.by if len(x) == self.batch else 0)


@pytest.fixture
def network(tiny_classifier):
    return tiny_classifier().eval()


class TestLogits:
    def test_a_copy_agrees_everywhere_on_images_that_are_all_used(self, network):
        x = torch.rand(72, 3, 8, 8)
        copy = Off(network, 0)
        found = same_logits(network, copy, x, where="net")
        assert [one.batch for one in found] == [one.agreeing for one in found] == [1, 7, 64] == list(BATCHES)
        assert [one.difference for one in found] == [0, 0, 0]
        assert torch.equal(torch.cat(copy.seen), x)

    def test_few_images_are_used_again(self, network):
        assert len(same_logits(network, network, torch.rand(3, 3, 8, 8), where="net")) == 3

    @pytest.mark.parametrize("batch", BATCHES)
    def test_a_difference_at_any_batch_size_is_refused(self, network, batch):
        said = f"^net: at batch {batch} its logits differ from the network's by 0.01, where rounding explains 0.000"
        with pytest.raises(InputError, match=said):
            same_logits(network, Off(network, 0.01, batch), torch.rand(72, 3, 8, 8), where="net")

    def test_rounding_grows_with_the_logits(self):
        x = torch.rand(72, 1)
        for scale, fits in ((1.0, False), (1000.0, True)):
            network = nn.Linear(1, 2)
            nn.init.constant_(network.weight, scale)
            if fits:
                found = same_logits(network, Off(network, 0.01), x + 1, where="net")
                assert 0.009 < found[-1].difference < 0.011
            else:
                with pytest.raises(InputError):
                    same_logits(network, Off(network, 0.01), x, where="net")

    def test_numbers_that_are_none_are_no_parity(self, network):
        with pytest.raises(InputError, match="differ from the network's by nan"):
            same_logits(network, Off(network, math.nan), torch.rand(72, 3, 8, 8), where="net")

    def test_another_number_of_classes_is_refused(self, network):
        with pytest.raises(InputError, match=r"^net: it returns \[1, 3\] where the network returns \[1, 4\]$"):
            same_logits(network, lambda x: network(x)[:, :3], torch.rand(72, 3, 8, 8), where="net")

    def test_modes_are_given_back(self, tiny_classifier, modes):
        network = tiny_classifier()
        network.backbone[1].eval()
        before = modes(network)
        same_logits(network, nn.Sequential(network), torch.rand(8, 3, 8, 8), where="net")
        assert modes(network) == before


class TestPaired:
    def test_counts_and_their_difference(self):
        before = torch.tensor([True, True, True, False, False, True])
        after = torch.tensor([True, False, True, True, False, False])
        found = Paired.of(before, after)
        assert (found.both, found.only_before, found.only_after, found.neither) == (2, 2, 1, 1)
        assert found.examples == 6
        assert found.difference == pytest.approx((3 - 4) / 6)
        assert found.plain()["difference"] == found.difference

    def test_the_interval_is_that_of_the_paper(self):
        """Agresti and Min (2005), adjusted Wald with 0.5 to each count, by hand."""
        found = Paired(both=80, only_before=9, only_after=3, neither=8)
        n, b, c = 102, 9.5, 3.5
        centre, half = (c - b) / n, 1.959964 * math.sqrt((b + c) - (c - b) ** 2 / n) / n
        assert found.interval == pytest.approx((centre - half, centre + half), abs=1e-6)
        assert str(found) == f"-6.0 [{100 * (centre - half):+.1f}, {100 * (centre + half):+.1f}]"

    def test_no_change_among_few_is_not_certain(self):
        low, high = Paired(both=20, only_before=0, only_after=0, neither=0).interval
        assert low == -high < -0.05
        wide = Paired(both=2000, only_before=0, only_after=0, neither=0).interval
        assert 0 < wide[1] < 0.002

    def test_without_examples_nothing_is_known(self):
        found = Paired.of(torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.bool))
        assert math.isnan(found.difference)
        assert found.interval == (-1.0, 1.0)
        assert found.plain()["difference"] is None


def test_every_pair_of_verdicts_is_counted_once():
    before = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=torch.bool)
    after = torch.tensor([1, 0, 0, 0, 1, 1, 0, 0, 0, 0], dtype=torch.bool)
    assert Paired.of(before, after) == Paired(both=1, only_before=3, only_after=2, neither=4)

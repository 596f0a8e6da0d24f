import pytest
import torch
from torch import nn

from overproof.diagnostics.parity import same_logits
from overproof.errors import InputError
from overproof.formats.program import read_program, to_program
from overproof.models.classifier import Classifier
from overproof.signature import Signature


def test_it_reads_back_as_itself_for_any_number_of_images(small, small_pixels):
    network = read_program(to_program(small, small_pixels, where="net"), where="net.pt2")
    found = same_logits(small, network, small_pixels, where="net")
    assert max(one.difference for one in found) < 1e-6


def test_what_is_no_program_is_refused():
    with pytest.raises(InputError, match=r"^net.pt2: torch cannot read this program \(\w+\)$"):
        read_program(b"<html>", where="net.pt2")


def test_a_network_that_cannot_be_followed_is_refused():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 4)

    network = Classifier(Fixed(), Signature(channels=1, height=2, width=2, classes=4))
    with pytest.raises(InputError, match=r"^net: it computes for one number of images only"):
        to_program(network, torch.rand(2, 1, 2, 2), where="net")

"""Steps that only move values, through whole networks: the same values, and a refusal where images are mixed."""

import pytest
import torch
import torch.nn.functional as F

from overproof.bounds.trace import trace
from overproof.errors import InputError

from .test_trace import SHAPE, assert_followed, ending

MOVES = {
    "parts of images in the batch": lambda _, x: x.flatten(0, 1).relu().view(x.shape[0], -1),
    "parts in another order": lambda _, x: x.flatten(0, 1).flip(-1).relu().view(x.shape[0], 4, 4, 4).roll(1, 2),
    "parts beside a constant": lambda _, x: torch.cat(
        [x.flatten(0, 1), torch.ones(1, 1, 4).to(x).expand(4 * x.shape[0], -1, -1)], 1
    ).view(x.shape[0], -1),
    "zeros like another layer": lambda _, x: torch.cat([x, torch.zeros_like(x)], 1) + x.new_ones(4, 4),
    "as another layer": lambda _, x: torch.linspace(0, 1, 4).to(x).view(1, 1, 1, 4).expand_as(x) + x,
    "padded with ones": lambda _, x: F.pad(x.flatten(0, 1), (1, 1), value=1.0).relu().view(x.shape[0], -1),
    "two at once": lambda _, x: torch.stack([x, x.relu()], 1).flatten(0, 1).relu().view(x.shape[0], -1),
}


@pytest.mark.parametrize("step", MOVES.values(), ids=MOVES)
def test_they_are_followed(step):
    assert_followed(ending(step))


MIXED = {
    "the batch within": lambda _, x: x.transpose(0, 1).flatten(0, 1).relu().view(4, x.shape[0], -1).transpose(0, 1),
    "one image beside the other": lambda _, x: x.flip(0),
    "parts of one image to another": lambda _, x: x.flatten(0, 1).relu().roll(1, 0).view(x.shape[0], -1),
}


@pytest.mark.parametrize("step", MIXED.values(), ids=MIXED)
def test_a_step_that_mixes_the_batch_is_refused(step):
    with pytest.raises(InputError, match="no bounds for a step that mixes the batch"):
        trace(ending(step), SHAPE)

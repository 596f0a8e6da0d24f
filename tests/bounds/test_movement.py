import pytest
import torch
import torch.nn.functional as F

from overproof.bounds.movement import ELSEWHERE, BatchMixedError, moves

from .networks import normal

SHAPE = (2, 4, 6)
STEPS = {
    "flatten": lambda x: x.flatten(1),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "the batch second": lambda x: x.transpose(0, 1),
    "the batch last": lambda x: x.permute(3, 1, 2, 0),
    "a slice": lambda x: x[:, 1:, ::2, -1],
    "expand": lambda x: x[:, :, :, :1].expand(-1, -1, -1, 5),
    "roll": lambda x: x.roll((1, 2), (1, 2)),
    "pixels": lambda x: F.pixel_unshuffle(x, 2),
    "reflect": lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "blocks": lambda x: x.view(x.size(0), 2, 2, 2, 3, 2).permute(0, 1, 3, 2, 4, 5).flatten(1, 3),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("batch", [0, 2])
def test_a_step_is_told_by_where_its_values_are_from(step, batch):
    """Wherever the batch of its layer lies."""

    def from_there(x):
        return step(x.movedim(batch, 0))

    (move,) = moves(from_there, [(SHAPE, batch, None)])
    x = normal(2, *SHAPE)
    found = x.flatten(1)[:, move.index]
    truth = from_there(x.movedim(0, batch)).movedim(move.batch, 0)
    assert torch.equal(found, truth)


def test_the_batch_is_where_it_went():
    assert moves(lambda x: x.permute(2, 0, 1, 3), [(SHAPE, 0, None)])[0].batch == 1


def test_several_parts_are_several_moves():
    parts = moves(lambda x: x.chunk(3, dim=-1), [(SHAPE, 0, None)])
    assert [tuple(part.index.shape) for part in parts] == [(2, 4, 2)] * 3
    assert parts[1].index[0, 0].tolist() == [2, 3]


def test_values_of_two_layers_are_counted_one_layer_after_another():
    (move,) = moves(lambda x, y: torch.stack([y, x], dim=-1), [((3,), 0, None), ((3,), 0, None)])
    assert move.index.tolist() == [[3, 0], [4, 1], [5, 2]]


def test_values_of_no_layer_are_told():
    (move,) = moves(lambda x: F.pad(x, (1, 0), value=ELSEWHERE), [((3,), 0, None)])
    assert move.index.tolist() == [-1, 0, 1, 2]


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x.transpose(0, 1).flatten(0, 1),
        lambda x: x.flip(0),
        lambda x: x[:1].expand(2, -1, -1, -1),
        lambda x: x[0],
    ],
)
def test_a_step_that_mixes_the_batch_is_refused(step):
    with pytest.raises(BatchMixedError):
        moves(step, [(SHAPE, 0, None)])


def test_what_keeps_the_order_is_another_shape():
    (move,) = moves(lambda x: x.flatten(1), [(SHAPE, 0, None)])
    assert move.keeps_order(48) and not move.keeps_order(49)
    (other,) = moves(lambda x: x.flip(1), [(SHAPE, 0, None)])
    assert not other.keeps_order(48)


@pytest.mark.parametrize("batch", [0, 2])
def test_the_parts_of_an_image_stay_together(batch):
    """Parts of images in the batch's own dimension are told, wherever it lies, and back again."""

    def cut(x):
        return x.movedim(batch, 0).reshape(-1, 4, 6).movedim(0, batch)

    (move,) = moves(cut, [(SHAPE, batch, None)])
    assert (move.batch, move.parts) == (batch, 2)
    assert tuple(move.index.shape) == ((2, 4, 6) if batch == 0 else (4, 6, 2))
    (again,) = moves(lambda x: x.flip(1), [(tuple(move.index.shape), batch, 2)])
    assert (again.batch, again.parts) == (batch, 2)
    back = lambda x: x.movedim(batch, 0).reshape(-1, 2, 4, 6)  # noqa: E731
    (move,) = moves(back, [(tuple(move.index.shape), batch, 2)])
    assert (move.batch, move.parts) == (0, None)


def test_a_part_of_its_own_is_no_part():
    (move,) = moves(lambda x: x.flatten(0, 1), [((1, 5), 0, None)])
    assert (move.batch, move.parts) == (0, None)

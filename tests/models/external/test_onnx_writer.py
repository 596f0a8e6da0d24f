import pytest
import torch
from torch import nn

from overproof.models.external import onnx_writer
from overproof.models.external.onnx_writer import BATCH, GraphWriter, NodeOutput, Operation, Unconverted


def test_a_layer_knows_its_shape_however_it_lies():
    x = GraphWriter().begin((2, 3, 4))
    assert (x.shape, x.rank) == ((BATCH, 2, 3, 4), 4)
    assert NodeOutput(node=x.node, like=x.like, axes=(0, 2, 3, 1)).shape == (BATCH, 3, 4, 2)


def test_transposed_and_flattened_features_come_in_the_files_order():
    writer = GraphWriter()
    x = writer.begin((2, 3, 4))
    flat = writer.shaped(NodeOutput(node=x.node, like=x.like, axes=(0, 2, 3, 1)), [24])
    assert flat.order is not None
    pixels = torch.rand(5, 2, 3, 4)
    assert torch.equal(writer.finish(flat)(pixels), pixels.permute(0, 2, 3, 1).flatten(1))


def test_steps_that_are_not_used_are_left_out():
    writer = GraphWriter()
    x = writer.begin((1, 2, 2))
    writer.module(x, nn.ReLU())
    found = writer.finish(writer.shaped(writer.call(torch.add, x, torch.ones(2)), [4]))
    assert not any(isinstance(each, nn.ReLU) for each in found.modules())
    assert torch.equal(found(torch.zeros(1, 1, 2, 2)), torch.ones(1, 4))


def test_a_value_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(onnx_writer, "_MOST_NUMBERS", 7)
    writer = GraphWriter()
    with pytest.raises(Unconverted, match="a value of 8 numbers an image"):
        writer.call(torch.cat, [writer.begin((1, 2, 2))] * 2, 1)


def test_an_operation_says_what_of_it_has_no_form():
    operation = Operation(kind="Gemm", name="node\n7", attributes={"axes": [1]}, inputs=[None], opset=18)
    assert operation.numbers("axes", 1) == [1] and operation.option("x", 3) == 3
    for ask in (operation.layer, lambda: operation.refuse("with x")):
        with pytest.raises(Unconverted) as caught:
            ask()
        assert str(caught.value).startswith("operator Gemm ") and "\n" not in str(caught.value)

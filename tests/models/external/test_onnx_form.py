import numpy as np
import onnx
import pytest
import torch
from tests.models.external.onnx_files import LAST, chain, file, head

from overproof.models.external.onnx_file import OnnxFile
from overproof.models.external.onnx_form import ImageLayout, with_any_batch, without_softmax


def test_pixels_as_a_file_takes_them():
    x = torch.arange(24).reshape(1, 2, 3, 4) / 255
    assert torch.equal(ImageLayout(sizes=(2, 3, 4)).arranged(x), x)
    assert torch.equal(ImageLayout(sizes=(3, 4, 2), layout="nhwc").arranged(x), x.permute(0, 2, 3, 1))
    assert torch.equal(ImageLayout(sizes=(24,), layout="nhwc").arranged(x), x.permute(0, 2, 3, 1).reshape(1, 24))
    assert torch.equal(
        ImageLayout(sizes=(24, 1), whole=True).arranged(x), torch.arange(24, dtype=torch.uint8)[None, :, None]
    )


@pytest.mark.parametrize(
    ("sizes", "layout"),
    [((1, 4, 4), "nchw"), ((3, 4, 3), "nchw"), ((4, 4, 3), "nhwc"), ((4, 4, 1), "nhwc"), ((4, 4, 4), "nchw")],
)
def test_the_layout_is_guessed_by_the_channels(sizes, layout):
    body = file(chain(*LAST), head(int(np.prod(sizes))), sizes=sizes)
    assert OnnxFile(body, where="net").form.layout == layout
    assert OnnxFile(body, where="net", layout="nchw").form.layout == "nchw"


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_only_a_softmax_at_the_end_is_left_out(kind):
    body, notes = without_softmax(file(chain(*LAST, (kind, (), {"axis": 1})), head(16)), "net")
    assert notes and kind.encode() not in body
    inside = file(chain((kind, (), {"axis": 1}), *LAST), head(16))
    assert without_softmax(inside, "net") == (inside, ())


def test_a_batch_that_a_reshape_says_is_opened_in_it_as_well():
    steps = [("Reshape", ("s",), {}), ("Gemm", ("w", "b"), {})]
    for sizes in ([1, 16], [1, -1]):
        body = file(chain(*steps), head(16) | {"s": np.array(sizes)}, batch=1)
        assert OnnxFile(with_any_batch(body, "net"), where="net")(torch.rand(3, 1, 4, 4)).shape == (3, 5)


def test_a_softmax_whose_shape_the_file_does_not_say_is_left_out_as_well():
    model = onnx.load_model_from_string(file(chain(*LAST, ("Softmax", (), {})), head(16)))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert without_softmax(model.SerializeToString(), "net")[1]

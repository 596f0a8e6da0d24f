import logging
import sys

import pytest
import torch

from overproof.data.images import ImageSet
from overproof.errors import InputError
from overproof.formats.quantize import calibration_pixels, quantised
from overproof.models.external.onnx_file import OnnxFile

METHODS = ("minmax", "entropy", "percentile")


@pytest.fixture(scope="module")
def outlier(small_pixels):
    """Images near the mean of the normalisation, but for one white pixel."""
    x = 0.35 + 0.1 * small_pixels.repeat(3, 1, 1, 1)
    x[0, 0, 0, 0] = 1.0
    return x


@pytest.fixture(scope="module")
def files(small_body, outlier):
    return {name: quantised(small_body, outlier, calibration=name, where="net") for name in METHODS}


def graph(body):
    import onnx

    return onnx.load_model_from_string(body)


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_int8_with_a_scale_per_channel_and_activations_uint8(files, method):
    from onnx import TensorProto

    model = graph(files[method])
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") >= 3 and kinds.count("DequantizeLinear") >= 5
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = [tensor for tensor in tensors.values() if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1]
    assert sorted(tuple(tensor.dims) for tensor in weights) == [(4, 1, 4, 4), (5, 8), (8, 64)]
    scales = [tuple(tensor.dims) for name, tensor in tensors.items() if name.endswith("weight_scale")]
    assert (4,) in scales
    zeros = [tensors[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {tensor.data_type for tensor in zeros} == {TensorProto.UINT8}


@pytest.mark.parametrize("method", METHODS)
def test_it_is_near_the_float_network_and_keeps_what_it_says(files, small_body, outlier, method):
    whole, small = OnnxFile(small_body, where="f"), OnnxFile(files[method], where="q")
    assert small.metadata == whole.metadata == {"about": "a test"}
    x = outlier[1:]
    spread = whole(x).std()
    assert (whole(x) - small(x)).abs().mean() < 0.5 * spread
    assert not torch.equal(whole(x), small(x))


def test_only_minmax_keeps_all_of_the_range(files):
    """Of what the white pixel needs, entropy and percentile keep what the other 24,575 do."""
    import numpy as np
    from onnx import numpy_helper

    def range_of_pixels(body):
        model = graph(body)
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
        return float(np.asarray(tensors[first.input[1]]) * 255)

    reach = {name: range_of_pixels(body) for name, body in files.items()}
    assert reach["minmax"] == max(reach.values())
    assert reach["minmax"] == pytest.approx((1 - 0.35) / 0.2, rel=0.01)
    assert reach["entropy"] < 0.5 * reach["minmax"]
    assert reach["percentile"] < 0.5 * reach["minmax"]


def test_nothing_is_printed_and_logging_is_as_before(small_body, outlier, capfd):
    before = logging.root.manager.disable
    quantised(small_body, outlier, calibration="percentile", where="net")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == before


class TestCalibrationImages:
    IMAGES = ImageSet(
        name="few",
        images=torch.arange(100, dtype=torch.uint8).reshape(100, 1, 1, 1),
        labels=torch.arange(100) % 4,
        classes=tuple("abcd"),
    )

    def test_a_balanced_subset_by_the_seed(self):
        found = calibration_pixels(self.IMAGES, 80, 0)
        assert found.shape == (80, 1, 1, 1)
        places = (found * 255).round().long().flatten()
        assert (places % 4).bincount().tolist() == [20] * 4
        assert not torch.equal(found, calibration_pixels(self.IMAGES, 80, 1))

    @pytest.mark.parametrize("count", [0, -1, 63])
    def test_too_few_are_refused(self, count):
        with pytest.raises(InputError, match=f"^a calibration set of {count} images is too small; take at least 64$"):
            calibration_pixels(self.IMAGES, count, 0)

    def test_more_than_there_are_is_refused(self):
        said = "^few: the training part has 100 images, too few for a calibration set of 101$"
        with pytest.raises(InputError, match=said):
            calibration_pixels(self.IMAGES, 101, 0)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_names_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"^net: quantisation needs the extra: pip install 'overproof\[export\]'$"):
        quantised(b"", torch.rand(64, 1, 8, 8), calibration="minmax", where="net")

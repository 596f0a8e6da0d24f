import sys

import numpy as np
import pytest
import torch

from overproof.errors import InputError
from overproof.evaluation.admission import gradients_of
from overproof.models.foreign import foreign, is_foreign
from overproof.models.onnx_file import OnnxFile
from overproof.signature import Signature

SIGNATURE = Signature(channels=1, height=2, width=3, classes=4)
WEIGHT = np.arange(24, dtype=np.float32).reshape(6, 4) / 10


def body(batch="batch", *, kind=1, shape=(1, 2, 3), inputs=1, classes=4, metadata=None):
    """Return a linear network as an ONNX file, put together without torch; kind 1 is float32, 11 float64."""
    from onnx import helper, numpy_helper

    images = [helper.make_tensor_value_info(f"in{number}", kind, [batch, *shape]) for number in range(inputs)]
    weight = numpy_helper.from_array(WEIGHT[:, :classes].astype(np.float32 if kind == 1 else np.float64), "weight")
    nodes = [
        helper.make_node("Flatten", ["in0"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["out"]),
    ]
    out = helper.make_tensor_value_info("out", kind, [batch, classes])
    graph = helper.make_graph(nodes, "linear", images, [out], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, metadata or {})
    return model.SerializeToString()


def refused(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_it_computes_what_the_graph_says_for_any_number_of_images(batch):
    x = torch.rand(batch, 1, 2, 3)
    found = OnnxFile(body(), where="net")(x.double().requires_grad_())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, x.flatten(1) @ torch.from_numpy(WEIGHT))


def test_it_gives_no_gradients_and_its_metadata():
    network = OnnxFile(body(metadata={"licence": "MIT"}), where="net")
    assert not gradients_of(network, torch.rand(2, 1, 2, 3))
    assert network.metadata == {"licence": "MIT"}


def test_a_tracer_is_refused_before_it_reaches_onnxruntime():
    with pytest.raises(TypeError, match="cannot be traced, got Proxy"):
        torch.fx.symbolic_trace(OnnxFile(body(), where="net"))


def test_two_files_have_two_digests():
    first, second = OnnxFile(body(), where="a"), OnnxFile(body(metadata={"a": "b"}), where="b")
    assert first.digest != second.digest
    assert not torch.equal(first.state_dict()["sha256"], second.state_dict()["sha256"])
    assert bytes(first.sha256.tolist()).hex() == first.digest


def test_a_fixed_batch_is_refused_with_the_way_out():
    said = refused(OnnxFile, body(batch=1), where="net.onnx")
    assert said == (
        "net.onnx: its batch is fixed at 1; export it with a dynamic batch, as in "
        "torch.onnx.export(model, x, dynamic_shapes=({0: 'batch'},))"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": 11}, "net: its input is tensor(double) ['batch', 1, 2, 3]; expected float32 images [N, C, H, W]"),
        ({"shape": (6,)}, "net: its input is tensor(float) ['batch', 6]; expected float32 images [N, C, H, W]"),
        ({"inputs": 2}, "net: it has 2 inputs (in0, in1); expected one, images [N, C, H, W]"),
    ],
)
def test_other_inputs_are_refused(options, said):
    assert refused(OnnxFile, body(**options), where="net") == said


def test_what_is_no_file_or_no_graph_is_refused(tmp_path):
    absent = tmp_path / "absent.onnx"
    assert refused(OnnxFile.read, absent) == f"{absent}: cannot read this file (No such file or directory)"
    for name, content in (("page.onnx", b"<html>not found</html>"), ("cut.onnx", body()[:-30]), ("empty.onnx", b"")):
        (tmp_path / name).write_bytes(content)
        assert "onnxruntime cannot run this file" in refused(OnnxFile.read, tmp_path / name)


def test_without_onnxruntime_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert refused(OnnxFile, b"", where="net.onnx") == ("net.onnx needs the extra: pip install 'overproof[export]'")


class TestAsAForeignWord:
    def test_a_file_is_a_foreign_network(self, tmp_path):
        file = tmp_path / "net.onnx"
        file.write_bytes(body())
        assert is_foreign(str(file)) and is_foreign("absent.onnx")
        (tmp_path / "run.onnx").mkdir()
        assert not is_foreign(str(tmp_path / "run.onnx"))
        x = torch.rand(5, 1, 2, 3)
        torch.testing.assert_close(foreign(str(file), SIGNATURE)(x), x.flatten(1) @ torch.from_numpy(WEIGHT))

    def test_a_wrong_class_count_is_refused(self, tmp_path):
        file = tmp_path / "net.onnx"
        file.write_bytes(body(classes=3))
        assert refused(foreign, str(file), SIGNATURE) == f"{file}: it returns 3 logits, the data have 4 classes"

    def test_images_of_another_size_are_refused(self, tmp_path):
        file = tmp_path / "net.onnx"
        file.write_bytes(body(shape=(1, 3, 2)))
        assert refused(foreign, str(file), SIGNATURE).startswith(f"{file}: given images [2, 1, 2, 3] it raised ")

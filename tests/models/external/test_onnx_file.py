import os
import sys
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
import torch

from overproof.errors import InputError
from overproof.evaluation.input_checks import gradients_of
from overproof.models.classifier import Classifier
from overproof.models.external import onnx_session
from overproof.models.external.loading import fitting
from overproof.models.external.onnx_file import OnnxFile
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


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_fixed_batch_is_opened_where_that_computes_the_same(batch, count):
    network = OnnxFile(body(batch=batch), where="net.onnx")
    assert network.form.batch == 0 and network.notes == (f"its batch is fixed at {batch}; it is opened",)
    x = torch.rand(count, 1, 2, 3)
    torch.testing.assert_close(network(x), x.flatten(1) @ torch.from_numpy(WEIGHT))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_batch_that_cannot_be_opened_is_run_in_parts(batch, count):
    """The mean over the batch is that of two images in a file for two, whatever the batch is said to be."""
    from onnx import helper, numpy_helper

    images = helper.make_tensor_value_info("in0", 1, [batch, 1, 2, 3])
    shape = numpy_helper.from_array(np.array([batch * 2, 3]), "shape")
    back = numpy_helper.from_array(np.array([batch, 6]), "back")
    nodes = [helper.make_node("Reshape", ["in0", "shape"], ["rows"]), helper.make_node("Sin", ["rows"], ["sines"])]
    nodes.append(helper.make_node("Reshape", ["sines", "back"], ["out"]))
    out = helper.make_tensor_value_info("out", 1, [batch, 6])
    made = helper.make_graph(nodes, "made", [images], [out], [shape, back])
    content = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    network = OnnxFile(content, where="net.onnx")
    assert network.form.batch == batch
    assert network.notes == (
        f"its batch is fixed at {batch}; it is kept, and {batch} at a time are run, which is slow",
    )
    x = torch.rand(count, 1, 2, 3)
    torch.testing.assert_close(network(x), x.flatten(1).sin())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": 11}, "net: its input is tensor(double) ['batch', 1, 2, 3]; expected float32 images [N, C, H, W]"),
        ({"inputs": 2}, "net: it has 2 inputs (in0, in1); expected one, images [N, C, H, W]"),
        (
            {"shape": (1, "h", 3)},
            "net: its input is ['batch', 1, 'h', 3], so the size of an image is not fixed; export it for images of one "
            "size, with no dynamic dimension but the batch",
        ),
    ],
)
def test_other_inputs_are_refused(options, said):
    assert refused(OnnxFile, body(**options), where="net") == said


def test_what_is_no_file_or_no_graph_is_refused(tmp_path):
    absent = tmp_path / "absent.onnx"
    assert refused(OnnxFile.read, absent) == f"{absent}: there is no such file"
    for name, content in (("page.onnx", b"<html>not found</html>"), ("cut.onnx", body()[:-30]), ("empty.onnx", b"")):
        (tmp_path / name).write_bytes(content)
        told = refused(OnnxFile.read, tmp_path / name)
        assert "onnxruntime cannot run this file" in told or "not readable as an ONNX file" in told


@pytest.mark.parametrize("name", [b"in0", b"flat", b"out", b"MatMul"])
def test_of_names_that_are_no_text_nothing_is_printed(name, capfd):
    with suppress(InputError):  # onnxruntime takes some of them
        OnnxFile(body().replace(name, b"\xbd" + name[1:]), where="net.onnx")
    assert capfd.readouterr() == ("", "")


def test_without_onnxruntime_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert refused(OnnxFile, b"", where="net.onnx") == ("net.onnx needs the extra: pip install 'overproof[export]'")


def graph(nodes, out, shape, kind=1):
    """Return a network of these operators, from ``flat`` ``[N, 6]`` to ``out``."""
    from onnx import helper

    images = helper.make_tensor_value_info("in0", 1, ["batch", 1, 2, 3])
    nodes = [helper.make_node("Flatten", ["in0"], ["flat"], axis=1), *nodes]
    made = helper.make_graph(nodes, "made", [images], [helper.make_tensor_value_info(out, kind, shape)])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def doubling(times):
    from onnx import helper

    names = ["flat", *(f"d{number}" for number in range(times))]
    nodes = [helper.make_node("Concat", [a, a], [b], axis=1) for a, b in pairwise(names)]
    return graph(nodes, names[-1], ["batch", 6 * 2**times])


def test_more_memory_than_there_is_is_asked_for_in_vain():
    """Three operators in 200 bytes, the first of which fills 64 TiB."""
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([2**44]))),
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["flat", "sum"], ["out"]),
    ]
    network = OnnxFile(graph(nodes, "out", ["batch", 6]), where="net.onnx")
    with pytest.raises(MemoryError, match=r"net\.onnx: memory ran out on 2 images"):
        network(torch.rand(2, 1, 2, 3))


def test_a_first_run_that_takes_too_long_is_stopped(monkeypatch):
    network = OnnxFile(doubling(22), where="net.onnx")
    monkeypatch.setattr(onnx_session, "_SECONDS", 0.0)
    assert refused(network, torch.rand(64, 1, 2, 3)) == (
        "net.onnx: running it takes more than 0 seconds, so it was stopped"
    )


def test_loading_that_takes_too_long_is_stopped(monkeypatch):
    from onnx import helper

    names = ["flat", *(f"s{number}" for number in range(5000))]
    chain = graph([helper.make_node("Sin", [a], [b]) for a, b in pairwise(names)], names[-1], ["batch", 6])
    monkeypatch.setattr(onnx_session, "_SECONDS", 0.0)
    assert refused(OnnxFile, chain, where="net.onnx") == (
        "net.onnx: loading it takes more than 0 seconds, so it was stopped"
    )


@pytest.mark.parametrize(("operator", "kind"), [("Shape", 7), ("Cast", 7), ("Identity", 1)])
def test_what_are_no_logits_are_refused(operator, kind):
    from onnx import helper

    options = {"to": 7} if operator == "Cast" else {}
    source = "in0" if operator == "Identity" else "flat"
    network = OnnxFile(
        graph([helper.make_node(operator, [source], ["out"], **options)], "out", None, kind), where="net.onnx"
    )
    assert refused(network, torch.rand(2, 1, 2, 3)).endswith("; expected one row of float logits each")


def test_what_fails_later_is_one_sentence():
    """A graph that takes two images and no other number: nobody can know it before."""
    from onnx import helper, numpy_helper

    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones((2, 6), np.float32)))
    network = OnnxFile(
        graph([constant, helper.make_node("Add", ["flat", "c"], ["out"])], "out", None), where="net.onnx"
    )
    assert network(torch.rand(2, 1, 2, 3)).shape == (2, 6)
    assert refused(network, torch.rand(3, 1, 2, 3)).startswith("net.onnx: onnxruntime failed on 3 images (")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(kind, tmp_path):
    place = tmp_path / "x.onnx"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero")
    assert refused(OnnxFile.read, place) == f"{place}: a {kind}, not a file"


def loaded(file):
    return fitting(Classifier(OnnxFile.read(file), SIGNATURE), SIGNATURE, str(file))


class TestAsAForeignWord:
    def test_a_file_is_a_foreign_network(self, tmp_path):
        file = tmp_path / "net.onnx"
        file.write_bytes(body())
        x = torch.rand(5, 1, 2, 3)
        torch.testing.assert_close(loaded(file)(x), x.flatten(1) @ torch.from_numpy(WEIGHT))

    def test_a_wrong_class_count_is_refused(self, tmp_path):
        file = tmp_path / "net.onnx"
        file.write_bytes(body(classes=3))
        assert refused(loaded, file) == f"{file}: it returns 3 logits, the data have 4 classes"

    def test_images_of_another_size_are_refused(self, tmp_path):
        file = tmp_path / "net.onnx"
        file.write_bytes(body(shape=(1, 3, 2)))
        assert refused(loaded, file).startswith(f"{file}: onnxruntime failed on 2 images (")

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tests.models.external.onnx_files import LAST, chain, drawn, file, head, node

from overproof.bounds.region import Bounds
from overproof.bounds.trace import trace
from overproof.errors import InputError
from overproof.models.classifier import Classifier
from overproof.models.external.onnx_file import OnnxFile
from overproof.models.external.onnx_network import OnnxNetwork, file_of, full_network, in_torch
from overproof.signature import Signature

SIGNATURE = Signature(channels=1, height=4, width=4, classes=5)
WILD = Path(__file__).parents[4] / "shared" / "reference" / "wild" / "onnx"


def full(body, signature=SIGNATURE, layout=None):
    return full_network(OnnxFile(body, where="net.onnx", layout=layout), signature)


def images(signature=SIGNATURE, count=3):
    shape = (count, signature.channels, signature.height, signature.width)
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1)) / 255


def agrees(network, signature=SIGNATURE):
    """The torch network answers as onnxruntime does, to what the order of sums may change, at every batch size."""
    assert isinstance(network, OnnxNetwork), network.lacking
    for count in (1, 2, 3):
        x = images(signature, count)
        with torch.no_grad():
            expected, found = network.file(x), network.network(x)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    return network


def has_bounds(network, signature=SIGNATURE):
    """Bounds follow it, and on a single point they are its logits."""
    graph = trace(network, (signature.channels, signature.height, signature.width)).graph()
    x = images(signature, 2)
    layers = [Bounds(x, x)]
    for each in graph.nodes[1:]:
        layers.append(graph.forward(each, layers))
    with torch.no_grad():
        torch.testing.assert_close(layers[-1].lower, network(x), rtol=1e-4, atol=1e-4)


CONV = [("Conv", ("k", "c"), {"pads": [1, 1, 1, 1]})]
KERNEL = {"k": drawn(3, 1, 3, 3), "c": drawn(3, seed=1)}


class TestFiles:
    def test_the_file_answers_and_its_torch_network_has_the_gradients(self):
        network = full(file(chain(*CONV, ("Relu", (), {}), *LAST), KERNEL | head(48)))
        x = images().requires_grad_()
        with torch.no_grad():
            assert torch.equal(network(x), network.file(x))
        logits = network(x)
        assert torch.equal(logits, network.network(x)) and logits.requires_grad
        (gradient,) = torch.autograd.grad(logits.sum(), x)
        assert gradient.abs().sum() > 0

    def test_what_is_searched_is_normalised_as_the_file_is(self):
        network = full(file(chain(*CONV, *LAST), KERNEL | head(48)))
        model = Classifier(network, SIGNATURE, mean=(0.3,), std=(0.5,)).eval()
        with torch.no_grad():
            torch.testing.assert_close(in_torch(model)(images()), model(images()), rtol=1e-5, atol=1e-5)
        assert file_of(model.backbone) is network.file and file_of(model) is None
        with pytest.raises(TypeError):
            in_torch(in_torch(model))

    @pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21, 23])
    def test_operator_sets(self, opset):
        """What torch's older exporter writes for ``x.view(x.size(0), -1)``, whose operators changed their form."""
        places = {"zero": np.array(0), "last": np.array([-1])}
        old = opset < 13
        added = node("Unsqueeze", "n", out="rows", axes=[0]) if old else node("Unsqueeze", "n", "axes", out="rows")
        nodes = [
            node("Conv", "x", "k", "c", out="m"),
            node("Relu", "m", out="r"),
            node("Shape", "r", out="shape"),
            node("Gather", "shape", "zero", out="n", axis=0),
            added,
            node("Concat", "rows", "last", out="target", axis=0),
            node("Reshape", "r", "target", out="flat"),
            node("Gemm", "flat", "w", "b", out="y"),
        ]
        weights = KERNEL | places | head(12) | ({} if old else {"axes": np.array([0])})
        has_bounds(agrees(full(file(nodes, weights, opset=opset))))

    def test_a_batch_of_one_that_a_reshape_says_is_opened(self):
        nodes = chain(*CONV, ("Reshape", ("s",), {}), ("Gemm", ("w", "b"), {}))
        network = agrees(full(file(nodes, KERNEL | head(48) | {"s": np.array([1, 48])}, batch=1)))
        assert network.file.form.batch == 0

    def test_height_width_channels(self):
        """As TensorFlow's files: transposed at the beginning, transposed back before it is flattened, bias apart."""
        signature = Signature(channels=3, height=6, width=5, classes=5)
        nodes = [
            node("Transpose", "x", out="t", perm=[0, 3, 1, 2]),
            node("Conv", "t", "k", out="m", auto_pad="SAME_UPPER", strides=[2, 2]),
            node("Transpose", "m", out="u", perm=[0, 2, 3, 1]),
            node("Add", "u", "c", out="a"),
            node("Relu", "a", out="r"),
            node("Reshape", "r", "s", out="flat"),
            node("Mul", "flat", "f", out="scaled"),
            node("MatMul", "scaled", "w", out="z"),
            node("Add", "z", "b", out="y"),
        ]
        weights = {"k": drawn(4, 3, 3, 3), "c": drawn(4), "f": drawn(36, seed=3), "s": np.array([-1, 36])} | head(36)
        network = agrees(full(file(nodes, weights, sizes=(6, 5, 3)), signature), signature)
        assert network.file.form.layout == "nhwc" and "height, width, channels" in network.file.notes[0]
        assert not any(each.target in ("permute", torch.index_select) for each in network.network.graph.nodes)
        has_bounds(network, signature)

    @pytest.mark.parametrize("layout", ["nchw", "nhwc"])
    @pytest.mark.parametrize("sizes", [(32,), (32, 1), (1, 32)])
    def test_flat_images(self, layout, sizes):
        signature = Signature(channels=2, height=4, width=4, classes=5)
        network = agrees(full(file(chain(*LAST), head(32), sizes=sizes), signature, layout), signature)
        x = images(signature)
        flat = (x.permute(0, 2, 3, 1) if layout == "nhwc" else x).flatten(1)
        expected = flat @ torch.from_numpy(head(32)["w"]) + torch.from_numpy(head(32)["b"])
        with torch.no_grad():
            torch.testing.assert_close(network(x), expected)
        if layout == "nchw":
            has_bounds(network, signature)

    def test_bytes_are_scaled_inside(self):
        nodes = [node("Cast", "x", out="f", to=1), node("Div", "f", "by", out="p"), *chain(*CONV, *LAST, first="p")]
        weights = KERNEL | head(48) | {"by": np.float32(255)}
        network = agrees(full(file(nodes, weights, kind=TensorProto.UINT8)))
        assert network.file.notes == ("its input are bytes, so pixels are rounded to 1/255",)
        with pytest.raises(InputError, match="bounds cannot follow OnnxNetwork: its input are bytes"):
            has_bounds(network)

    def test_a_softmax_at_the_end_is_left_out(self):
        nodes = chain(*LAST, ("Softmax", (), {"axis": -1}))
        network = agrees(full(file(nodes, head(16))))
        with torch.no_grad():
            plain = full(file(chain(*LAST), head(16)))
            torch.testing.assert_close(network(images()), plain(images()))
        assert network.file.notes == ("its last operator, Softmax, is left out: attacks and bounds need logits",)

    def test_functions_are_written_out(self):
        own = helper.make_function(
            "own", "Act", ["a"], ["b"], [node("Relu", "a", out="b")], [helper.make_opsetid("", 18)]
        )
        nodes = [node("Conv", "x", "k", "c", out="m"), helper.make_node("Act", ["m"], ["r"], domain="own")]
        nodes += chain(*LAST, first="r")
        takes = helper.make_tensor_value_info("x", 1, ["n", 1, 4, 4])
        gives = helper.make_tensor_value_info("y", 1, ["n", 5])
        held = [numpy_helper.from_array(value, name) for name, value in (KERNEL | head(12)).items()]
        graph = helper.make_graph(nodes, "made", [takes], [gives], held)
        sets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        has_bounds(
            agrees(
                full(helper.make_model(graph, functions=[own], opset_imports=sets, ir_version=8).SerializeToString())
            )
        )


class TestWhatCannotBeConverted:
    """The file answers queries, and says why it has no gradients."""

    def test_an_operator_is_named_with_its_node(self):
        found = full(file(chain(("Sin", (), {}), *LAST), head(16)))
        assert isinstance(found, OnnxFile)
        assert found.lacking == "operator Sin (node 'Sin_x0') has no form in torch"
        with pytest.raises(InputError, match="operator Sin"):
            trace(found, (1, 4, 4))

    def test_a_network_that_computes_something_else(self, monkeypatch):
        """Were an operator translated wrongly, its network would not be used."""
        from overproof.models.external import onnx_operators

        rules = dict(onnx_operators._RULES) | {"Relu": lambda writer, operation: operation.layer()}
        monkeypatch.setattr(onnx_operators, "_RULES", rules)
        found = full(file(chain(*CONV, ("Relu", (), {}), *LAST), KERNEL | head(48)))
        assert isinstance(found, OnnxFile)
        assert found.lacking.startswith("its torch network differs by ") and found.lacking.endswith("the largest logit")

    def test_an_operator_set_that_is_not_known(self):
        found = full(file(chain(*LAST), head(16), opset=24))
        assert isinstance(found, OnnxFile) and found.lacking == "operator set 24 is not one of 7 to 23"

    def test_steps_that_mix_the_images_of_a_batch(self):
        nodes = chain(("ReduceMean", ("zero",), {"keepdims": 1}), ("Expand", ("s",), {}), *LAST)
        found = full(file(nodes, head(16) | {"zero": np.array([0]), "s": np.array([1, 1, 4, 4])}, batch=1))
        assert isinstance(found, OnnxFile) and found.lacking.startswith("operator ReduceMean over the batch")


class TestBadInput:
    @staticmethod
    def refused(body, signature=SIGNATURE, **options):
        with pytest.raises(InputError) as caught:
            full(body, signature, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_an_operator_that_nobody_knows(self):
        said = self.refused(file([node("Invented", "x", out="y")], {}))
        assert said.startswith("net.onnx: onnxruntime cannot run this file (") and "Invented" in said

    def test_a_loop(self):
        inner = helper.make_graph(
            [node("Relu", "x", out="z")], "inner", [], [helper.make_tensor_value_info("z", 1, None)]
        )
        loop = helper.make_node("Loop", ["", "", "x"], ["y"], body=inner)
        assert "operator Loop repeats a body as often as it says" in self.refused(file([loop], {}))

    def test_two_inputs_and_two_outputs(self):
        nodes = chain(*LAST)
        assert self.refused(file(nodes, head(16), inputs=("z",))) == (
            "net.onnx: it has 2 inputs (x, z); expected one, images [N, C, H, W]"
        )
        both = [*nodes, node("Relu", "y", out="z")]
        assert self.refused(file(both, head(16), outputs=("y", "z"))) == (
            "net.onnx: it has 2 outputs (y, z); expected one, logits [N, K]"
        )

    def test_a_dynamic_shape_other_than_the_batch(self):
        said = self.refused(file(chain(*LAST), head(16), sizes=(1, "height", 4)))
        assert "so the size of an image is not fixed" in said

    def test_a_truncated_file(self):
        whole = file(chain(*CONV, *LAST), KERNEL | head(48))
        for length in range(0, len(whole), 97):
            self.refused(whole[:length])

    def test_images_of_another_size(self):
        said = self.refused(file(chain(*LAST), head(16)), Signature(channels=1, height=8, width=2, classes=5))
        assert said.startswith("net.onnx: it takes images of 1x4x4 (NCHW), the data are 1x8x2; ")

    def test_a_layout_that_there_is_not(self):
        said = self.refused(file(chain(*LAST), head(16)), layout="nwhc")
        assert said.startswith("net.onnx: there is no layout 'nwhc' (")


@pytest.mark.skipif(not WILD.is_dir(), reason="the published files are not here")
@pytest.mark.parametrize("name", ["Convnet_maxpool", "cifar10_small", "cifar_base_kw", "mnist-net_256x2", "resnet_2b"])
def test_published_files_have_gradients_and_bounds(name):
    file = OnnxFile.read(WILD / f"{name}.onnx")
    grey = name in ("Convnet_maxpool", "mnist-net_256x2")
    signature = Signature(channels=1, height=28, width=28, classes=10)
    signature = signature if grey else Signature(channels=3, height=32, width=32, classes=10)
    has_bounds(agrees(full_network(file, signature), signature), signature)

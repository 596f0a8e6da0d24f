import numpy as np
import pytest
import torch
from onnx import TensorProto
from tests.models.external.onnx_files import LAST, chain, drawn, file, head, node

from overproof.bounds.trace import trace
from overproof.errors import InputError
from overproof.models.external.onnx_raw import RawFile, raw_networks
from overproof.models.external.onnx_writer import Unconverted


def raw(*steps, weights, **how):
    return RawFile(file(chain(*steps), weights, **how), where="net.onnx")


def points(count, inputs):
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(0)) * 3


def agrees(found, inputs):
    """Every torch network of a file answers as the file does at points far outside [0, 1]."""
    networks = list(raw_networks(found, points(3, inputs)))
    x = points(5, inputs)
    for network in networks:
        arranged = network.arranged(x)
        assert arranged.shape[1:] == network.shape and torch.equal(network.flat(arranged), x)
        torch.testing.assert_close(network.module(arranged), found(x), rtol=1e-4, atol=1e-4)
    return networks


class TestFile:
    @pytest.mark.parametrize("batch", ["n", 1])
    @pytest.mark.parametrize("sizes", [(6,), (6, 1), (1, 2, 3), (1, 1, 1, 6)])
    def test_numbers_are_in_the_order_of_the_input(self, sizes, batch):
        weights = head(6)
        found = raw(*LAST, weights=weights, sizes=sizes, batch=batch)
        assert (found.shape, found.inputs, found.outputs) == (sizes, 6, 5)
        x = points(4, 6)
        expected = x @ torch.from_numpy(weights["w"]) + torch.from_numpy(weights["b"])
        torch.testing.assert_close(found(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.together(x), expected, rtol=1e-5, atol=1e-5)
        (network,) = agrees(found, 6)
        assert network.shape == (sizes if len(sizes) in (1, 3) else (6,))

    def test_a_softmax_stays(self):
        found = raw(*LAST[:1], ("Gemm", ("w", "b"), {}), ("Softmax", (), {}), weights=head(6), sizes=(6,))
        torch.testing.assert_close(found(points(2, 6)).sum(dim=1), torch.ones(2))

    def test_an_input_without_a_batch_is_run_and_not_converted(self):
        found = raw(("Reshape", ("s",), {}), ("Gemm", ("w", "b"), {}), weights=head(6) | {"s": np.array([1, 6])},
                    sizes=(), batch=6)  # fmt: skip
        assert found.shape == (6,) and found(points(2, 6)).shape == (2, 5)
        with pytest.raises(Unconverted, match=r"has no batch$"):
            next(raw_networks(found, points(2, 6)))

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ({"inputs": ("z",)}, r"it has 2 inputs \(x, z\)"),
            ({"kind": TensorProto.UINT8}, r"its input is tensor\(uint8\)"),
            ({"sizes": ("h", 6)}, r"its input is \['batch', 'h', 6\]; export it with no dynamic dimension"),
        ],
    )
    def test_what_a_query_is_not_about(self, how, said):
        steps = [("Cast", (), {"to": 1}), *LAST]
        with pytest.raises(InputError, match=rf"^net\.onnx: {said}"):
            raw(*steps, weights=head(6), **{"sizes": (6,)} | how)


class TestTransposed:
    def test_bounds_follow_a_file_that_transposes_its_input(self):
        nodes = [
            node("Sub", "x", "m", out="s"),
            node("Transpose", "s", out="t", perm=[0, 3, 1, 2]),
            node("Conv", "t", "k", out="c"),
            node("Flatten", "c", out="f"),
            node("Gemm", "f", "w", "b", out="y"),
        ]
        weights = {"m": drawn(3), "k": drawn(2, 3, 2, 2)} | head(2 * 3 * 4)
        found = RawFile(file(nodes, weights, sizes=(4, 5, 3)), where="net.onnx")
        as_it_lies, moved = agrees(found, 60)
        assert as_it_lies.shape == (4, 5, 3) and moved.shape == (3, 4, 5)
        assert any("permute" in str(each.target) for each in as_it_lies.module.graph.nodes)
        assert not any("permute" in str(each.target) for each in moved.module.graph.nodes)
        assert trace(moved.module, moved.shape).graph().nodes[0].shape == (3, 4, 5)

    def test_flat_networks_of_any_file(self):
        found = raw(("Conv", ("k",), {}), *LAST, weights={"k": drawn(2, 1, 2, 2)} | head(18))
        (network,) = raw_networks(found, points(3, 16), flat=True)
        assert network.shape == (16,)
        torch.testing.assert_close(network.module(points(3, 16)), found(points(3, 16)), rtol=1e-5, atol=1e-5)
        assert trace(network.module, network.shape).graph().nodes[0].shape == (16,)


def test_what_has_no_form_in_torch_is_named():
    found = raw(("Sin", (), {}), *LAST, weights=head(16))
    with pytest.raises(Unconverted, match=r"operator Sin"):
        next(raw_networks(found, points(2, 16)))

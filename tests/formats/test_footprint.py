import time

import torch

from overproof.formats.footprint import graph_multiply_adds, latency
from overproof.formats.quantize import quantised
from overproof.models.cost import multiply_adds


def test_multiply_adds_are_those_counted_by_hand(small, small_pixels):
    # A 4x4 convolution with stride 2 makes 4x4 positions of 4 channels; 64 -> 8 -> 5.
    by_hand = 4 * 4 * 4 * (1 * 4 * 4) + 64 * 8 + 8 * 5
    assert multiply_adds(small, small.signature) == by_hand


def test_a_file_needs_as_many_as_its_network_in_float_and_in_int8(small, small_body, small_pixels):
    expected = multiply_adds(small, small.signature)
    assert graph_multiply_adds(small_body, where="net") == expected
    small_file = quantised(small_body, small_pixels, calibration="minmax", where="net")
    assert graph_multiply_adds(small_file, where="net") == expected


def test_a_graph_of_unknown_shapes_is_not_guessed():
    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(torch.rand(4, 2).numpy(), "weight")
    given = helper.make_tensor_value_info("in", 1, ["n", "c", "h", "w"])
    nodes = [helper.make_node("Flatten", ["in"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["out"])]
    graph = helper.make_graph(nodes, "g", [given], [helper.make_tensor_value_info("out", 1, ["n", "k"])], [weight])
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    assert graph_multiply_adds(body, where="net") in (None, 8)


def test_latency_is_of_one_image_and_leaves_the_first_passes_out():
    shapes, started = [], time.perf_counter()

    def run(x):
        shapes.append(tuple(x.shape))
        time.sleep(0.05 if len(shapes) <= 5 else 0.001)

    found = latency(run, torch.rand(3, 1, 2, 2), passes=40)
    assert set(shapes) == {(1, 1, 2, 2)}
    assert found.passes == 40 < len(shapes)
    assert 1.0 <= found.median <= found.p99
    assert found.median < 1000 * (time.perf_counter() - started)

import numpy as np
import pytest
from onnx import TensorProto, helper, load_model_from_string, numpy_helper

from overproof.errors import InputError
from overproof.models.external import onnx_graph
from overproof.models.external.onnx_graph import check_graph, with_weights

IMAGES = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 2, 3])
LOGITS = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])


def body(nodes, *, weights=(), functions=(), sparse=()):
    graph = helper.make_graph(nodes, "made", [IMAGES], [LOGITS], list(weights), sparse_initializer=list(sparse))
    return helper.make_model(graph, functions=list(functions)).SerializeToString()


def inner(nodes):
    return helper.make_graph(nodes, "inner", [], [LOGITS])


def node(kind="Sin", domain="", **attributes):
    return helper.make_node(kind, ["x"], ["y"], domain=domain, **attributes)


def function(name, nodes):
    return helper.make_function("own", name, ["x"], ["y"], nodes, [helper.make_opsetid("", 18)])


def refused(content):
    with pytest.raises(InputError) as caught:
        check_graph(content, where="x.onnx")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_plain_graph_with_a_choice_and_a_function_passes():
    choice = node("If", then_branch=inner([node()]), else_branch=inner([node("Cos")]))
    check_graph(body([node(), choice, node("f", "own")], functions=[function("f", [node()])]), where="x.onnx")


@pytest.mark.parametrize("kind", ["Loop", "Scan", "SequenceMap", "Invented"])
@pytest.mark.parametrize("place", ["outside", "inside", "function", "deep"])
def test_what_repeats_a_body_is_refused_wherever_it_is(kind, place):
    loop = node(kind, body=inner([node()]))
    content = {
        "outside": lambda: body([loop]),
        "inside": lambda: body([node("If", then_branch=inner([loop]), else_branch=inner([node()]))]),
        "function": lambda: body([node("f", "own")], functions=[function("f", [loop])]),
        "deep": lambda: body([node("If", then_branch=inner([node("If", then_branch=inner([loop]))]))]),
    }[place]()
    assert refused(content).startswith(f"x.onnx: operator {kind} repeats a body as often as it says")


def test_more_operators_than_any_classifier_has_are_refused(monkeypatch):
    monkeypatch.setattr(onnx_graph, "_MOST_NODES", 10)
    check_graph(body([node()] * 10), where="x.onnx")
    assert refused(body([node()] * 11)) == "x.onnx: its 11 operators are more than the 10 that are run"


def test_functions_are_counted_as_often_as_they_are_called():
    """Forty functions, each of which calls the one before twice: 2^40 operators in a few kilobytes."""
    functions = [function("f0", [node()])]
    functions += [function(f"f{n}", [node(f"f{n - 1}", "own")] * 2) for n in range(1, 41)]
    assert refused(body([node("f40", "own")], functions=functions)) == (
        f"x.onnx: its {2**40:,} operators are more than the 20,000 that are run"
    )


def test_functions_that_contain_themselves_are_refused():
    functions = [function("f", [node("g", "own")]), function("g", [node("f", "own")])]
    assert "contain each other" in refused(body([node("f", "own")], functions=functions))


def test_weights_in_other_files_are_refused_wherever_they_are():
    weight = numpy_helper.from_array(np.ones(3, np.float32), "w")
    check_graph(body([node()], weights=[weight]), where="x.onnx")
    weight.external_data.add(key="location", value="../../etc/passwd")
    for content in (
        body([node()], weights=[weight]),
        body([node("Constant", value=weight)]),
        body([node("f", "own")], functions=[function("f", [node("Constant", value=weight)])]),
        body([node("If", then_branch=inner([node("Constant", value=weight)]))]),
    ):
        assert "its weights lie in other files" in refused(content)


def test_a_few_values_of_a_huge_shape_are_refused():
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("w_places", TensorProto.INT64, [1], [5])
    sparse = helper.make_sparse_tensor(values, places, [2**40])
    assert refused(body([node()], sparse=[sparse])) == "x.onnx: its weights are sparse; export them as dense tensors"


@pytest.mark.parametrize("content", [b"\xff" * 50, b"<html>", b"\x1c\x00\x00\x00ORTM" + bytes(100)], ids=repr)
def test_what_is_no_graph_is_one_sentence(content):
    assert refused(content).startswith("x.onnx: not readable as an ONNX file (")


class TestWeightsBesideIt:
    """torch's own export writes them to ``NAME.onnx.data``."""

    def file(self, tmp_path, location="w.data", offset="4", length="12"):
        weight = numpy_helper.from_array(np.arange(1, 4, dtype=np.float32), "w")
        whole = body([node()], weights=[weight])
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": offset, "length": length}.items():
            weight.external_data.add(key=key, value=value)
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "w.data").write_bytes(b"----" + np.arange(1, 4, dtype=np.float32).tobytes())
        return tmp_path / "in" / "x.onnx", body([node()], weights=[weight]), whole

    def test_they_are_read_from_the_files_own_folder_wherever_the_command_stands(self, tmp_path, monkeypatch):
        file, content, whole = self.file(tmp_path)
        (tmp_path / "w.data").write_bytes(bytes(100))  # somebody else's
        monkeypatch.chdir(tmp_path)
        (weight,) = load_model_from_string(with_weights(content, file)).graph.initializer
        assert numpy_helper.to_array(weight).tolist() == [1, 2, 3]
        check_graph(with_weights(content, file), where="x.onnx")
        assert with_weights(whole, file) == whole

    @pytest.mark.parametrize(
        ("said", "sentence"),
        [
            ({"location": "../w.data"}, "not below its own folder"),
            ({"location": "/etc/passwd"}, "not below its own folder"),
            ({"location": ""}, "not below its own folder"),
            ({"location": "other.data"}, "'other.data', which is not there"),
            ({"length": "16"}, "does not hold the weights that the graph says"),
            ({"offset": "-4"}, "does not hold the weights that the graph says"),
            ({"offset": "x"}, "not readable as an ONNX file"),
        ],
    )
    def test_what_is_missing_elsewhere_or_too_short_is_one_sentence(self, tmp_path, said, sentence):
        file, content, _ = self.file(tmp_path, **said)
        with pytest.raises(InputError, match=sentence):
            with_weights(content, file)

    def test_a_link_that_leads_out_is_refused(self, tmp_path):
        file, content, _ = self.file(tmp_path)
        (tmp_path / "in" / "w.data").rename(tmp_path / "secret")
        (tmp_path / "in" / "w.data").symlink_to(tmp_path / "secret")
        with pytest.raises(InputError, match="not below its own folder"):
            with_weights(content, file)

import gzip
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tests.commands.small_queries import BOX, IDENTITY, NET, query
from tests.models.external.onnx_files import LAST, chain, drawn, file, head, node

from overproof.certification.falsifier import falsify
from overproof.certification.query import Answer
from overproof.commands import decide as module
from overproof.commands.decide import decide
from overproof.errors import InputError
from overproof.formats.queries import Point, Query
from overproof.formats.vnnlib import decimal, disagreement, margin_gap, robustness


def searching(network, graph, cases, **how):
    """What a verifier finds that only searches."""
    return falsify(network, cases, **how)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a counter-example is written into the current folder where no other is named


@pytest.fixture
def asked(tmp_path):
    """Return a function: what is decided of a file's bytes (or of two) and a query's text."""

    def ask(body, text, *, seconds=60.0, **options):
        bodies = body if isinstance(body, dict) else {"net": body}
        places = []
        for name, each in bodies.items():
            places.append(tmp_path / f"{name}.onnx")
            places[-1].write_bytes(each)
        (tmp_path / "q.vnnlib").write_text(text)
        return decide(places, tmp_path / "q.vnnlib", out=tmp_path / "out", seconds=seconds, **options)

    return ask


def confirmed(found, text, shapes):
    """The witness, read back, satisfies the query with what onnxruntime answers; return its values."""
    said = dict(re.findall(r"\((\S+) (\S+?)\)", Path(found["witness"]).read_text().replace("((", "(", 1)))
    inputs, outputs = {}, {}
    for network, (x, y, shape) in zip(found["networks"], shapes, strict=True):
        given = np.array([float(v) for name, v in said.items() if name.startswith(x)], dtype=np.float32)
        session = onnxruntime.InferenceSession(network)
        (answer,) = session.run(None, {session.get_inputs()[0].name: given.reshape(shape)})
        written = [float(value) for name, value in said.items() if name.startswith(y)]
        np.testing.assert_array_equal(answer.flatten(), np.float32(written))
        inputs[x.rstrip("_[")], outputs[y.rstrip("_[")] = given.astype(np.float64), answer.astype(np.float64).flatten()
    if len(shapes) == 1:
        assert Query.read(text).satisfied_by(Point(inputs, outputs))
    return inputs, outputs


class TestOne:
    def test_what_no_input_satisfies_is_unsat(self, asked):
        found = asked(NET, query("(assert (or (>= Y_0 3.5) (<= Y_1 0.5)))"))
        assert (found["result"], found["witness"], found["cases"], found["notes"]) == ("unsat", None, 2, [])

    def test_a_counter_example_is_confirmed_and_written(self, asked, monkeypatch):
        monkeypatch.setattr(module, "verify", searching)
        text = query("(assert (or (>= Y_0 3.5) (and (<= Y_1 1.5) (>= Y_0 2))))")
        found = asked(NET, text)
        assert found["result"] == "sat" and Path(found["witness"]).name == "net_q.counterexample"
        inputs, _ = confirmed(found, text, [("X_", "Y_", (1, 2))])
        assert inputs["X"][0] >= 2 and 1 <= inputs["X"][1] <= 1.5

    def test_what_the_files_deny_is_never_sat(self, asked, monkeypatch):
        """Whatever a verifier says, its witness is brought into the box and tried on the file itself."""
        wrong = Answer("sat", witness=torch.tensor([[9.0, 9.0]])[0], case=0)
        monkeypatch.setattr(module, "verify", lambda *_, **__: wrong)
        found = asked(NET, query("(assert (>= Y_0 3.5))"))
        assert found["result"] == "unknown" and found["notes"] == ["a counter-example was found that the query denies"]
        found = asked(NET, query("(assert (>= Y_0 2.5))"))
        inputs, _ = confirmed(found, query("(assert (>= Y_0 2.5))"), [("X_", "Y_", (1, 2))])
        assert inputs["X"].tolist() == [3.0, 4.0]

    def test_the_verifier_is_asked_in_the_box_that_float32_rounds_outwards(self, asked, monkeypatch):
        asking = {}

        def seen(network, graph, cases, *, seconds, confirm, seed):
            asking.update(cases=cases, seconds=seconds, seed=seed)
            low = cases[0].lower.float()
            asking["edge"] = confirm(0, low)
            return Answer("unknown")

        monkeypatch.setattr(module, "verify", seen)
        asked(NET, query("(assert (<= Y_0 0.1))", box=[(0.1, 3.0), (1.0, 4.0)]), seconds=7.0, seed=3)
        assert float(asking["cases"][0].lower[0]) < 0.1 and asking["seed"] == 3 and 0 < asking["seconds"] < 7
        assert not asking["edge"]  # the least float32 inside the box is above 0.1

    @pytest.mark.parametrize("precision", ["float32", "float64"])
    def test_bounds_are_in_the_precision_that_is_asked_for(self, asked, monkeypatch, precision):
        asking, search = [], module.verify

        def seen(network, graph, cases, **how):
            part = graph.nodes[-1].operator
            asking.extend([part.weight.dtype, part.bias.dtype, next(network.parameters()).dtype])
            return search(network, graph, cases, **how)

        monkeypatch.setattr(module, "verify", seen)
        assert asked(NET, query("(assert (>= Y_0 3.5))"), precision=precision)["result"] == "unsat"
        assert asking == [getattr(torch, precision)] * 2 + [torch.float32]
        pair = {"t": TestPair.TEACHER, "s": TestPair.TEACHER}
        monkeypatch.setattr(module, "verify", search)
        assert asked(pair, margin_gap(X, 0, 3, 0.1, 0.5), precision=precision)["result"] == "unsat"
        with pytest.raises(InputError, match=r"^precision is float32 or float64, got 'half'$"):
            asked(NET, query(""), precision="half")

    def test_a_box_alone_has_a_counter_example(self, asked):
        found = asked(NET, query(""))
        assert found["result"] == "sat"
        inputs, _ = confirmed(found, query(""), [("X_", "Y_", (1, 2))])
        assert all(low <= x <= high for x, (low, high) in zip(inputs["X"], BOX, strict=True))

    def test_what_no_numbers_satisfy_is_unsat(self, asked):
        found = asked(NET, query("(assert (>= Y_0 (+ Y_0 1)))"))
        assert (found["result"], found["cases"]) == ("unsat", 0)

    def test_packed_files(self, asked, tmp_path):
        (tmp_path / "n.onnx.gz").write_bytes(gzip.compress(NET))
        (tmp_path / "p.vnnlib.gz").write_bytes(gzip.compress(query("(assert (>= Y_0 3.5))").encode()))
        assert decide(tmp_path / "n.onnx.gz", tmp_path / "p.vnnlib.gz")["result"] == "unsat"


class TestForms:
    """Inputs that are no images: the query counts in the order of the file's own input."""

    @pytest.mark.parametrize("batch", ["n", 1])
    @pytest.mark.parametrize("sizes", [(6,), (6, 1), (1, 2, 3), (2, 3), (1, 1, 1, 6)])
    def test_any_shape(self, asked, monkeypatch, sizes, batch):
        """Each output is one input; the only counter-example has input 4 at its very end."""
        weight = np.eye(6, dtype=np.float32)[:, [4, 1]]
        body = file(
            chain(*LAST), {"w": weight, "b": np.zeros(2, dtype=np.float32)}, sizes=sizes, batch=batch, classes=2
        )
        box = [(float(i), i + 0.5) for i in range(6)]
        assert asked(body, query("(assert (>= Y_0 4.6))", box))["result"] == "unsat"
        monkeypatch.setattr(module, "verify", searching)
        found = asked(body, query("(assert (>= Y_0 4.5))", box))
        inputs, _ = confirmed(found, query("(assert (>= Y_0 4.5))", box), [("X_", "Y_", (1, *sizes))])
        assert inputs["X"][4] == 4.5 and np.allclose(np.floor(inputs["X"] + 0.25), np.arange(6), atol=1)

    def test_height_width_channels(self, asked, monkeypatch):
        """X_i counts as TensorFlow's files lie, however the network that is searched takes its input."""
        kernel = np.zeros((1, 3, 1, 1), dtype=np.float32)
        kernel[0, 2] = 1  # the last channel
        nodes = [
            node("Transpose", "x", out="t", perm=[0, 3, 1, 2]),
            node("Conv", "t", "k", out="c"),
            node("Flatten", "c", out="f"),
            node("Gemm", "f", "w", "b", out="y"),
        ]
        last = {"w": np.eye(4, dtype=np.float32)[:, [0, 3]], "b": np.zeros(2, dtype=np.float32)}
        body = file(nodes, {"k": kernel} | last, sizes=(2, 2, 3), classes=2)
        box = [(float(i), i + 0.5) for i in range(12)]
        found = asked(body, query("(assert (or (>= Y_0 2.6) (<= Y_1 10.9)))", box))
        assert (found["result"], found["notes"]) == ("unsat", [])
        monkeypatch.setattr(module, "verify", searching)
        text = query("(assert (and (>= Y_0 2.5) (<= Y_1 11)))", box)
        inputs, _ = confirmed(asked(body, text), text, [("X_", "Y_", (1, 2, 2, 3))])
        assert inputs["X"][2] == 2.5 and inputs["X"][11] == 11

    def test_a_softmax_at_the_end_where_outputs_are_compared(self, asked):
        body = file(chain(("Gemm", ("w", "b"), {}), ("Softmax", (), {})), IDENTITY, sizes=(2,), classes=2)
        found = asked(body, query("(assert (>= Y_1 Y_0))", box=[(2.0, 3.0), (0.0, 1.0)]))
        assert found["result"] == "unsat" and "left out" in found["notes"][0]
        found = asked(body, query("(assert (>= Y_0 1.5))", box=[(2.0, 3.0), (0.0, 1.0)]), seconds=0.5)
        assert found["result"] != "sat" and not any("left out" in each for each in found["notes"])


class TestWithoutBounds:
    SIN = file(chain(("Sin", (), {}), ("Gemm", ("w", "b"), {})), IDENTITY, sizes=(2,), classes=2)

    @pytest.mark.parametrize("body", [SIN, NET], ids=["no torch network", "no bounds"])
    def test_it_is_searched_and_the_operator_named(self, asked, monkeypatch, body):
        def refusing(*_):
            raise InputError("gemm_1: no bounds for Linear")

        monkeypatch.setattr(module, "trace", refusing)
        text = query("(assert (>= (+ Y_0 Y_1) 0.5))")
        found = asked(body, text)
        assert found["result"] == "sat"
        assert "net.onnx: " in found["notes"][0] and re.search("Sin|no bounds for Linear", found["notes"][0])
        confirmed(found, text, [("X_", "Y_", (1, 2))])
        assert asked(body, query("(assert (<= (+ Y_0 Y_1) -9.0))"), seconds=0.5)["result"] == "unknown"

    def test_an_input_without_a_batch(self, asked):
        nodes = chain(("Reshape", ("s",), {}), ("Gemm", ("w", "b"), {}))
        body = file(nodes, IDENTITY | {"s": np.array([1, 2])}, sizes=(), batch=2, classes=2)
        found = asked(body, query("(assert (>= Y_0 2.9))"))
        assert found["result"] == "sat" and "no batch" in found["notes"][0]


X = torch.tensor([[[0.2, 0.5], [0.95, 0.3]]])


class TestPair:
    TEACHER = file(chain(*LAST), head(4, 3), sizes=(1, 2, 2), classes=3)
    STUDENT = file(chain(*LAST), {"w": -head(4, 3)["w"], "b": head(4, 3)["b"]}, sizes=(1, 2, 2), classes=3)
    SHAPES = (("X_teacher[", "Y_teacher[", (1, 1, 2, 2)), ("X_student[", "Y_student[", (1, 1, 2, 2)))

    def test_our_own_queries_are_read_back(self, asked, monkeypatch):
        same, gap = {"t": self.TEACHER, "s": self.TEACHER}, margin_gap(X, 0, 3, 0.1, 0.5)
        assert asked(same, gap)["result"] == "unsat"  # of the same network twice, differences are none
        monkeypatch.setattr(module, "verify", searching)
        other = {"t": self.TEACHER, "s": self.STUDENT}
        found = asked(other, gap)
        inputs, outputs = confirmed(found, gap, self.SHAPES)
        assert (inputs["X_teacher"] == inputs["X_student"]).all() and "t_s_q" in found["witness"]
        margins = [outputs[name][0] - outputs[name] for name in ("Y_teacher", "Y_student")]
        assert abs(margins[0] - margins[1]).max() >= 0.5
        found = asked(other, disagreement(X, 3, 0.1))
        assert found["result"] == "sat" and found["cases"] == 6
        _, outputs = confirmed(found, "", self.SHAPES)
        assert outputs["Y_teacher"].argmax() != outputs["Y_student"].argmax()

    def test_one_of_our_queries_about_one_network(self, asked, monkeypatch):
        label = 0
        logits = X.flatten() @ torch.from_numpy(head(4, 3)["w"]) + torch.from_numpy(head(4, 3)["b"])
        label = int(logits.argmax())
        assert asked(self.TEACHER, robustness(X, label, 3, 1e-4))["result"] == "unsat"
        monkeypatch.setattr(module, "verify", searching)
        assert asked(self.TEACHER, robustness(X, label, 3, 1.0))["result"] == "sat"

    def test_by_name_and_equal_networks(self, tmp_path):
        text = margin_gap(X, 0, 3, 0.1, 0.5)
        (tmp_path / "q.vnnlib").write_text(text)
        for name, body in (("a", self.TEACHER), ("b", self.STUDENT)):
            (tmp_path / name).write_bytes(body)
        found = decide({"student": tmp_path / "b", "teacher": tmp_path / "a"}, tmp_path / "q.vnnlib", seconds=1)
        assert [Path(place).name for place in found["networks"]] == ["a", "b"]
        with pytest.raises(InputError, match=r"about the networks teacher, student, and files are given for one, two$"):
            decide({"one": tmp_path / "a", "two": tmp_path / "b"}, tmp_path / "q.vnnlib")
        equal = text.replace("(declare-network student\n", "(declare-network student (equal-to teacher)\n")
        assert equal != text
        (tmp_path / "q.vnnlib").write_text(equal)
        assert decide(tmp_path / "a", tmp_path / "q.vnnlib")["result"] == "unsat"
        with pytest.raises(InputError, match=r"student is equal to teacher, but .* is another network$"):
            decide([tmp_path / "a", tmp_path / "b"], tmp_path / "q.vnnlib")

    def test_inputs_of_other_shapes(self, asked):
        flat = file(chain(("Gemm", ("w", "b"), {})), head(4, 3), sizes=(4,), classes=3)
        text = margin_gap(X, 0, 3, 0.1, 0.5)
        assert asked({"t": self.TEACHER, "s": flat}, text)["result"] == "unsat"

    def test_files_whose_axes_lie_differently(self, asked):
        """One transposes its input and the other does not."""
        moved = [node("Transpose", "x", out="t", perm=[0, 3, 1, 2]), node("Conv", "t", "k", out="c")]
        last = [node("Flatten", "c", out="f"), node("Gemm", "f", "w", "b", out="y")]
        one = file([*moved, *last], {"k": drawn(2, 2, 1, 1)} | head(4, 2), sizes=(2, 1, 2), classes=2)
        other = file([node("Conv", "x", "k", out="c"), *last], {"k": drawn(2, 2, 1, 1)} | head(4, 2),
                     sizes=(2, 1, 2), classes=2)  # fmt: skip
        nets = [f"(declare-network {n} (declare-input X{n} float32 [1,2,1,2]) (declare-output Y{n} float32 [1,2]))"
                for n in "ab"]  # fmt: skip
        lines = [f"(assert (>= Xa[0,{i},0,{j}] -1.0))(assert (<= Xa[0,{i},0,{j}] 1.0))"
                 f"(assert (== Xa[0,{i},0,{j}] Xb[0,{i},0,{j}]))" for i in (0, 1) for j in (0, 1)]  # fmt: skip
        text = "\n".join(["(vnnlib-version <2.0>)", *nets, *lines, "(assert (>= (- Ya[0,0] Yb[0,0]) 0.01))"])
        found = asked({"a": one, "b": other}, text)
        assert found["result"] == "sat"
        inputs, outputs = confirmed(found, text, [("Xa[", "Ya[", (1, 2, 1, 2)), ("Xb[", "Yb[", (1, 2, 1, 2))])
        assert (inputs["Xa"] == inputs["Xb"]).all() and outputs["Ya"][0] - outputs["Yb"][0] >= 0.01
        assert asked({"a": other, "b": other}, text)["result"] == "unsat"

    def test_what_the_standards_parser_does_not_take(self, asked):
        bad = margin_gap(X, 0, 3, 0.1, 0.5).replace("Y_student[0,2]", "Y_student[0,3]")
        with pytest.raises(InputError, match=r"q\.vnnlib: not a VNN-LIB 2\.0 query \("):
            asked({"t": self.TEACHER, "s": self.STUDENT}, bad)


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (query("(assert (>= Y_0 0))", outputs=3), r"q\.vnnlib: the query is about 3 outputs, .*net\.onnx has 2$"),
            (query("(assert (< Y_0 0))"), r"q\.vnnlib: the query's .* is strict"),
            ("nothing", r"q\.vnnlib: this is no VNN-LIB query"),
            (disagreement(X, 3, 0.1), r"q\.vnnlib: the query is about 2 networks, and 1 is given$"),
        ],
    )
    def test_a_bad_query_is_one_sentence_with_its_file(self, asked, text, said):
        with pytest.raises(InputError, match=said):
            asked(NET, text)

    def test_bad_files(self, asked, tmp_path):
        text = query("(assert (>= Y_0 0))")
        with pytest.raises(InputError, match=r"net\.onnx: not readable as an ONNX file"):
            asked(NET[:-30], text)
        with pytest.raises(InputError, match=r"no\.vnnlib: there is no such file$"):
            decide(tmp_path / "net.onnx", tmp_path / "no.vnnlib")
        with pytest.raises(InputError, match=r"no\.onnx: there is no such file$"):
            decide(tmp_path / "no.onnx", tmp_path / "q.vnnlib")
        (tmp_path / "bytes").write_bytes(b"\xff\xfe")
        with pytest.raises(InputError, match=r"bytes: not UTF-8 text$"):
            decide(tmp_path / "net.onnx", tmp_path / "bytes")
        (tmp_path / "cut.gz").write_bytes(gzip.compress(text.encode())[:-9])
        with pytest.raises(InputError, match=r"cut\.gz: not readable as a gzip file"):
            decide(tmp_path / "net.onnx", tmp_path / "cut.gz")

    @pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
    def test_time_that_is_none(self, seconds):
        with pytest.raises(InputError, match=r"^seconds must be above 0"):
            decide("net.onnx", "q.vnnlib", seconds=seconds)


def test_a_large_random_network_is_searched_in_its_own_order(asked, monkeypatch):
    """The search's order and the file's are the same numbers, whatever the network does with them."""
    monkeypatch.setattr(module, "verify", searching)
    nodes = [
        node("Transpose", "x", out="t", perm=[0, 3, 1, 2]),
        node("Conv", "t", "k", out="c"),
        node("Relu", "c", out="r"),
        node("Flatten", "r", out="f"),
        node("Gemm", "f", "w", "b", out="y"),
    ]
    body = file(nodes, {"k": drawn(4, 3, 2, 2)} | head(4 * 3 * 4), sizes=(4, 5, 3))
    text = query("(assert (and (>= Y_0 Y_1) (>= Y_0 Y_2) (>= Y_0 Y_3)))", box=[(-1.0, 1.0)] * 60, outputs=5)
    confirmed(asked(body, text), text, [("X_", "Y_", (1, 4, 5, 3))])


def test_random_queries_about_random_networks_are_never_answered_wrongly(asked):
    """Small networks with one hidden layer; on a grid of the box, corners included, every answer must hold."""
    draws, answers = np.random.default_rng(0), []
    for number in range(40):
        inputs, hidden, outputs = draws.integers(1, 4), draws.integers(1, 5), draws.integers(1, 4)
        weights = {
            "v": draws.normal(size=(inputs, hidden)).astype(np.float32),
            "c": draws.normal(size=hidden).astype(np.float32),
            "w": draws.normal(size=(hidden, outputs)).astype(np.float32),
            "b": draws.normal(size=outputs).astype(np.float32),
        }
        steps = [("Gemm", ("v", "c"), {}), ("Relu", (), {}), ("Gemm", ("w", "b"), {})]
        body = file(chain(*steps), weights, sizes=(int(inputs),), classes=int(outputs))
        low = draws.normal(scale=3, size=inputs)
        box = [(float(a), float(a + width)) for a, width in zip(low, draws.uniform(0, 2, size=inputs), strict=True)]

        def atom(n=outputs):
            one, other = draws.integers(n, size=2)
            return f"(>= (* {draws.integers(1, 3)} Y_{one}) (+ Y_{other} {decimal(float(draws.normal(scale=2)))}))"

        parts = [f"(and {atom()} {atom()})" for _ in range(draws.integers(1, 4))]
        half = decimal(sum(box[0]) / 2)
        text = query(f"(assert (or {' '.join(parts)} (and (<= X_0 {half}) {atom()})))", box, int(outputs))
        found = asked(body, text, seconds=2.0, seed=number)
        answers.append(found["result"])
        assert not found["notes"]
        if found["result"] == "sat":
            confirmed(found, text, [("X_", "Y_", (1, int(inputs)))])
        grid = np.stack(np.meshgrid(*(np.linspace(*side, 9) for side in box)), axis=-1).reshape(-1, inputs)
        y = np.maximum(grid @ weights["v"].astype(float) + weights["c"], 0) @ weights["w"].astype(float) + weights["b"]
        read = Query.read(text)
        held = any(read.satisfied_by(Point({"X": one}, {"Y": out})) for one, out in zip(grid, y, strict=True))
        assert not (held and found["result"] == "unsat"), text
    assert "unsat" in answers

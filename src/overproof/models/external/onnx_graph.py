"""What an ONNX file asks for, looked at before anything runs it: its operators, their number, where its weights are."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from overproof.environment import package
from overproof.errors import InputError
from overproof.reading import is_file, parsing, read_bytes
from overproof.wording import one_line

_MOST_NODES = 20_000
"""Operators of a graph, its functions written out. The largest classifiers have a few thousand; loading takes seconds
with these, and longer than in proportion with more."""
_MOST_BYTES = 1 << 31  # of weights that a protocol buffer can hold
_DEEPEST = 50  # bodies and functions inside each other
_ADVICE = "export the network without it, in eval mode and for images of a fixed size"


def with_weights(body: bytes, file: Path) -> bytes:
    """Return a file's graph with the weights that lie in files beside it (torch's default export) put into it.

    Raises ``InputError`` where such a file is missing, lies elsewhere than in the graph's folder or below it, or is
    shorter than the graph says. A graph that holds its weights is returned as it is.
    """
    onnx = package("onnx", extra="export", where=str(file))
    with parsing(file, "an ONNX file"):
        model = onnx.load_model_from_string(body)
        outside = [tensor for graph in _graphs(model.graph) for tensor in graph.initializer if tensor.external_data]
        if not outside:
            return body
        home, taken, read = file.resolve().parent, 0, dict[Path, bytes]()
        for tensor in outside:
            said = {entry.key: entry.value for entry in tensor.external_data}
            name = said.get("location", "")
            place = (home / name).resolve()
            if not name or not place.is_relative_to(home):
                raise InputError(f"{file}: its weights lie in {one_line(name, 200)!r}, not below its own folder")
            if not is_file(place):
                raise InputError(f"{file}: its weights lie in {one_line(name, 200)!r}, which is not there")
            whole = read[place] = read.get(place) or read_bytes(place)
            start = int(said.get("offset", 0))
            length = int(said.get("length", len(whole) - start))
            taken += length
            if start < 0 or length < 0 or start + length > len(whole) or taken > _MOST_BYTES:
                raise InputError(f"{file}: {one_line(name, 200)!r} does not hold the weights that the graph says")
            tensor.raw_data = whole[start : start + length]
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
        return bytes(model.SerializeToString())


def check_graph(body: bytes, *, where: str) -> None:
    """Raise ``InputError`` for what is no ONNX file, or one whose work or weights its own bytes do not bound.

    Those are operators that repeat a body (a loop of 2^62 rounds is a few bytes, and no signal ends it), more
    operators than any classifier has, functions that contain themselves, and weights in other files or of few values
    for a huge shape.
    """
    onnx = package("onnx", extra="export", where=where)
    with parsing(where, "an ONNX file"):
        model = onnx.load_model_from_string(body)
        functions = {(each.domain, each.name): each for each in model.functions}
        if (counted := _Counting(functions, where).graph(model.graph, 0)) > _MOST_NODES:
            raise _too_many(where, counted)
        for graph in (part for top in (model.graph, *model.functions) for part in _graphs(top)):
            if getattr(graph, "sparse_initializer", ()):
                raise InputError(f"{where}: its weights are sparse; export them as dense tensors")
            attributes = [attribute for node in graph.node for attribute in node.attribute]
            constants = [tensor for attribute in attributes for tensor in (attribute.t, *attribute.tensors)]
            if any(tensor.external_data for tensor in (*getattr(graph, "initializer", ()), *constants)):
                raise InputError(f"{where}: its weights lie in other files; export it as one (external_data=False)")


class _Counting:
    """Counts a graph's operators with every body and function written out; each function is counted once."""

    def __init__(self, functions: Mapping[tuple[str, str], Any], where: str) -> None:
        self._functions, self._where = functions, where
        self._known: dict[tuple[str, str], int] = {}

    def graph(self, graph: Any, depth: int) -> int:
        return sum(self._node(node, depth) for node in graph.node)

    def _node(self, node: Any, depth: int) -> int:
        if depth > _DEEPEST:
            raise InputError(f"{self._where}: its functions or bodies contain each other more than {_DEEPEST} deep")
        bodies = [body for attribute in node.attribute for body in (*_own(attribute), *attribute.graphs)]
        name = node.domain, node.op_type
        if name in self._functions:
            if name not in self._known:
                self._known[name] = self.graph(self._functions[name], depth + 1)
            return self._known[name]
        if node.op_type in ("Loop", "Scan", "SequenceMap") or (bodies and node.op_type != "If"):
            raise InputError(
                f"{self._where}: operator {one_line(node.op_type, 60)} repeats a body as often as it says, so its work "
                f"has no bound; {_ADVICE}"
            )
        return 1 + sum(self.graph(body, depth + 1) for body in bodies)


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph, or a function, and the graphs inside its operators."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*_own(attribute), *attribute.graphs):
                yield from _graphs(inner)


def _own(attribute: Any) -> tuple[Any, ...]:
    return (attribute.g,) if attribute.HasField("g") else ()


def _too_many(where: str, operators: int) -> InputError:
    return InputError(f"{where}: its {operators:,} operators are more than the {_MOST_NODES:,} that are run")

"""An ONNX file as a function of numbers, which need be no image: its input as it lies, its outputs as they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from overproof.environment import package
from overproof.errors import InputError
from overproof.models.external.onnx_graph import check_graph
from overproof.models.external.onnx_network import check_parity, write_network
from overproof.models.external.onnx_session import Session
from overproof.models.external.onnx_writer import GraphWriter, NodeOutput, Unconverted
from overproof.reading import parsing
from overproof.wording import one_line

_MOST_FORMS = 4  # orders of the input's axes that are tried
_MAP = 3  # dimensions of a map


class RawFile:
    """A file as onnxruntime computes it: F numbers in the row-major order of its one input, K of its one output.

    ``shape`` is that of the input without the batch, which is a first dimension that is open or 1. Raises
    ``InputError`` for another number of inputs or outputs, another type than float32, and open dimensions.
    """

    def __init__(self, body: bytes, *, where: str, threads: int | None = None) -> None:
        package("onnxruntime", extra="export", where=where)
        check_graph(body, where=where)
        self.where, self.body, self.digest = where, body, sha256(body).hexdigest()
        self._session = Session(body, where=where, threads=threads)
        takes, gives = self._session.runtime.get_inputs(), self._session.runtime.get_outputs()
        for kind, parts in (("inputs", takes), ("outputs", gives)):
            if len(parts) != 1:
                names = one_line(", ".join(each.name for each in parts), 200)
                raise InputError(f"{where}: it has {len(parts)} {kind} ({names}); a query is about one of each")
        for kind, part in (("input", takes[0]), ("output", gives[0])):
            if part.type != "tensor(float)":
                raise InputError(f"{where}: its {kind} is {part.type}; a query is about float32 numbers")
        sizes = list(takes[0].shape)
        first = sizes[0] if sizes else None
        self.batched = len(sizes) > 1 and (not isinstance(first, int) or first in (0, 1))
        self.open = self.batched and first != 1
        rest = sizes[1:] if self.batched else sizes
        if not rest or not all(isinstance(size, int) and size > 0 for size in rest):
            shown = one_line(str(sizes), 200)
            raise InputError(f"{where}: its input is {shown}; export it with no dynamic dimension but the batch")
        self.shape: tuple[int, ...] = tuple(rest)
        self.outputs = int(self._run(torch.zeros(1, *self.shape)).size)

    @property
    def inputs(self) -> int:
        """How many numbers it takes."""
        return prod(self.shape)

    def __call__(self, x: Tensor) -> Tensor:
        """Map float32 ``[N, F]`` to ``[N, K]``, each alone, as whoever checks an answer does."""
        rows = [self._run(row.reshape(1, *self.shape)).reshape(-1) for row in x.detach()]
        return torch.stack([torch.from_numpy(row) for row in rows])

    def together(self, x: Tensor) -> Tensor:
        """Map float32 ``[N, F]`` to ``[N, K]`` in one pass where the file takes any batch."""
        if not self.open:
            return self(x)
        outputs = self._run(x.detach().reshape(len(x), *self.shape))
        return torch.from_numpy(outputs.reshape(len(x), -1)) if outputs.size == len(x) * self.outputs else self(x)

    def _run(self, x: Tensor) -> Any:
        output = self._session.run((x if self.batched else x[0]).numpy())
        if getattr(output, "dtype", None) != "float32" or not output.size:
            raise InputError(f"{self.where}: its output is no tensor of float32 numbers")
        return output


@dataclass(frozen=True, eq=False)
class RawNetwork:
    """A file in torch: ``module`` takes ``[N, *shape]``, the file's input with its axes permuted by ``axes``."""

    module: nn.Module
    sizes: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.sizes[axis] for axis in self.axes)

    def arranged(self, x: Tensor) -> Tensor:
        """Return ``[N, F]`` in the file's order as ``[N, *shape]``."""
        return x.reshape(len(x), *self.sizes).permute(0, *(axis + 1 for axis in self.axes))

    def flat(self, x: Tensor) -> Tensor:
        """Return ``[N, *shape]`` as ``[N, F]`` in the file's order."""
        return x.permute(0, *(self.axes.index(axis) + 1 for axis in range(len(self.axes)))).reshape(len(x), -1)


def raw_networks(file: RawFile, tried: Tensor, *, flat: bool = False) -> Iterator[RawNetwork]:
    """Yield the torch networks of a file that answer ``tried`` ``[N, F]`` as it does: as its axes lie, then transposed.

    A file that transposes its input (TensorFlow's does) has, for an input with its axes in that order, a network
    without the transposition, which bounds can follow. ``flat`` gives networks of ``[N, F]`` alone. Raises
    ``Unconverted`` where the file has no form in torch as its axes lie.
    """
    if not file.batched:
        raise Unconverted(f"its input {list(file.shape)} has no batch")
    expected = [file(tried), file(tried[:1])]
    plain = flat or len(file.shape) not in (1, _MAP)
    sizes = (file.inputs,) if plain else file.shape
    for number, axes in enumerate([tuple(range(len(sizes))), *([] if plain else _transposed_orders(file))]):
        try:
            network = RawNetwork(_write(file, sizes, axes), sizes, axes)
            check_parity(network.module, network.arranged(tried), expected)
        except Unconverted:
            if number == 0:
                raise
            continue
        yield network


def _write(file: RawFile, sizes: Sequence[int], axes: tuple[int, ...]) -> nn.Module:
    shape = [sizes[axis] for axis in axes]

    def begun(writer: GraphWriter) -> NodeOutput:
        x = writer.begin(shape)
        if axes != tuple(range(len(axes))):
            return NodeOutput(node=x.node, like=x.like, axes=(0, *(axes.index(axis) + 1 for axis in range(len(axes)))))
        return writer.shaped(x, file.shape)

    return write_network(file.body, begun, where=file.where).requires_grad_(False)


def _transposed_orders(file: RawFile) -> list[tuple[int, ...]]:
    """Return the orders of the input's axes that transpositions of the file ask for."""
    onnx = package("onnx", extra="export", where=file.where)
    with parsing(file.where, "an ONNX file"):
        nodes = onnx.load_model_from_string(file.body).graph.node
        orders = dict.fromkeys(
            tuple(int(axis) - 1 for axis in attribute.ints[1:])
            for node in nodes
            for attribute in node.attribute
            if node.op_type == "Transpose" and attribute.name == "perm" and len(attribute.ints) == 1 + len(file.shape)
        )
    right = tuple(range(len(file.shape)))
    return [order for order in orders if tuple(sorted(order)) == right and order != right][:_MOST_FORMS]

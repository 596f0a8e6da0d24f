"""In which form an ONNX file takes images: the order of its axes, flat or not, bytes or floats, a fixed batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from overproof.environment import package
from overproof.errors import InputError, nearest
from overproof.reading import parsing
from overproof.signature import Signature
from overproof.wording import one_line

Layout = Literal["nchw", "nhwc"]
_TYPES = {"tensor(float)": False, "tensor(uint8)": True}
_CHANNELS = (1, 3)


@dataclass(frozen=True, kw_only=True)
class ImageLayout:
    """How a file takes a batch of images.

    ``sizes`` are those of one image as the file has them, ``layout`` the order that they mean, also of a flat image.
    ``whole`` says that pixels are bytes, 0 to 255; ``batch`` is the number of images that the file is fixed at, 0 for
    any. ``notes`` are sentences about what was guessed.
    """

    sizes: tuple[int, ...]
    layout: Layout = "nchw"
    whole: bool = False
    batch: int = 0
    notes: tuple[str, ...] = ()

    def arranged(self, x: Tensor) -> Tensor:
        """Return pixels ``[N, C, H, W]`` in [0, 1] as the file takes them; of bytes, the nearest."""
        x = x.permute(0, 2, 3, 1) if self.layout == "nhwc" else x
        x = x if len(self.sizes) == 3 else x.reshape(len(x), *self.sizes)
        return (x * 255).round().clamp(0, 255).to(torch.uint8) if self.whole else x

    def check(self, signature: Signature, where: str) -> None:
        """Raise ``InputError`` where the file is for images of another size."""
        sizes = (signature.channels, signature.height, signature.width)
        if self.layout == "nhwc":
            sizes = (*sizes[1:], sizes[0])
        if self.sizes != sizes and (len(self.sizes) == 3 or prod(self.sizes) != prod(sizes)):
            ours, given = ("x".join(map(str, part)) for part in (self.sizes, sizes))
            raise InputError(
                f"{where}: it takes images of {ours} ({self.layout.upper()}), the data are {given}; where the order of "
                "its axes was guessed wrongly, add ?layout=nchw or ?layout=nhwc"
            )


def form_of(session: Any, where: str, layout: str | None = None) -> ImageLayout:
    """Return the form of the one input of an onnxruntime session.

    The order of the axes is ``layout`` or guessed: channels are 1 or 3. Raises ``InputError`` for another number of
    inputs or outputs, other types, and sizes that are not fixed.
    """
    for kind, parts, wanted in (
        ("inputs", session.get_inputs(), "images [N, C, H, W]"),
        ("outputs", session.get_outputs(), "logits [N, K]"),
    ):
        if len(parts) != 1:
            names = one_line(", ".join(each.name for each in parts), 200)
            raise InputError(f"{where}: it has {len(parts)} {kind} ({names}); expected one, {wanted}")
    (only,) = session.get_inputs()
    if only.type not in _TYPES or len(only.shape) < 2:
        raise InputError(f"{where}: its input is {only.type} {only.shape}; expected float32 images [N, C, H, W]")
    batch, *sizes = only.shape
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        shown = one_line(str(only.shape), 200)
        raise InputError(
            f"{where}: its input is {shown}, so the size of an image is not fixed; export it for images of one size, "
            "with no dynamic dimension but the batch"
        )
    if layout is not None and layout not in get_args(Layout):
        raise InputError(f"{where}: there is no layout {layout!r}{nearest(str(layout), get_args(Layout))}")
    whole, fixed = _TYPES[only.type], batch if isinstance(batch, int) and batch > 0 else 0
    notes = ["its input are bytes, so pixels are rounded to 1/255"] if whole else []
    order: Layout = "nchw"
    if layout is not None:
        order = "nhwc" if layout == "nhwc" else "nchw"
    elif len(sizes) == 3 and sizes[0] not in _CHANNELS and sizes[2] in _CHANNELS:
        order = "nhwc"
        notes.append(f"its input {list(sizes)} is taken as height, width, channels (?layout=nchw says otherwise)")
    elif len(sizes) != 3:
        notes.append(f"its input {list(sizes)} is taken as channels, height, width (?layout=nhwc says otherwise)")
    return ImageLayout(sizes=tuple(sizes), layout=order, whole=whole, batch=fixed, notes=tuple(notes))


def without_softmax(body: bytes, where: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a graph without the softmax that it ends with, which attacks and bounds have no use for; and a note."""
    onnx = package("onnx", extra="export", where=where)
    with parsing(where, "an ONNX file"):
        model = onnx.load_model_from_string(body)
        graph = model.graph
        if len(graph.output) != 1:
            return body, ()
        last = [node for node in graph.node if graph.output[0].name in node.output]
        if len(last) != 1 or last[0].op_type not in ("Softmax", "LogSoftmax") or last[0].domain not in ("", "ai.onnx"):
            return body, ()
        axis = next((each.i for each in last[0].attribute if each.name == "axis"), -1)
        shape = graph.output[0].type.tensor_type.shape.dim
        if axis not in (-1, 1) or len(shape) not in (0, 2):  # 0: the file does not say
            return body, ()
        graph.output[0].name = last[0].input[0]
        graph.node.remove(last[0])
        before = [each for each in graph.value_info if each.name == graph.output[0].name]
        for each in before:  # it may not be named twice
            graph.value_info.remove(each)
        changed = bytes(model.SerializeToString())
    return changed, (f"its last operator, {last[0].op_type}, is left out: attacks and bounds need logits",)


def with_any_batch(body: bytes, where: str) -> bytes:
    """Return a graph whose batch is fixed at one with its first dimension open, also in what its reshapes say.

    Whether it computes the same is for the caller to find out.
    """
    onnx = package("onnx", extra="export", where=where)
    with parsing(where, "an ONNX file"):
        model = onnx.load_model_from_string(body)
        graph = model.graph
        weights = {each.name: each for each in graph.initializer}
        constants: Mapping[str, Any] = weights | {
            node.output[0]: attribute.t
            for node in graph.node
            for attribute in node.attribute
            if node.op_type == "Constant" and attribute.name == "value"
        }
        for part in (*(each for each in graph.input if each.name not in weights), *graph.output):
            if dims := part.type.tensor_type.shape.dim:
                dims[0].Clear()
                dims[0].dim_param = "batch"
        del graph.value_info[:]
        for node in graph.node:
            if node.op_type == "Reshape" and len(node.input) == 2 and (target := constants.get(node.input[1])):
                sizes = onnx.numpy_helper.to_array(target).copy()
                if sizes.ndim == 1 and len(sizes) > 1 and sizes[0] == 1:
                    sizes[0] = 0 if -1 in sizes else -1
                    target.CopyFrom(onnx.numpy_helper.from_array(sizes, target.name))
        return bytes(model.SerializeToString())

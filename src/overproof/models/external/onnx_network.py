"""An ONNX file as a full network: onnxruntime says what it answers, a torch network of the same graph has gradients."""

from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from overproof.environment import package
from overproof.memory import ran_out
from overproof.models.classifier import Classifier
from overproof.models.external.imports import describe_exception
from overproof.models.external.onnx_file import OnnxFile
from overproof.models.external.onnx_form import ImageLayout
from overproof.models.external.onnx_operators import translate
from overproof.models.external.onnx_writer import GraphWriter, NodeOutput, Operation, Unconverted, Value
from overproof.reading import parsing
from overproof.signature import Signature
from overproof.wording import one_line

LOWEST, HIGHEST = 7, 23
"""The operator sets whose operators are known."""
_SAME, _MOST = 1e-5, 1e-3
"""Shares of the largest logit by which the file and its torch network may differ. Beyond the first it may be no more
than four times what float32 itself is wrong by in the network, as in very deep ones; beyond the second, never."""


class OnnxNetwork(nn.Module):
    """An ONNX file and the same graph in torch.

    Where no gradient is asked for, ``file`` answers: predictions and verdicts are those of what was shipped. With
    gradients, and to who follows the layers, ``network`` does; the two agree to 1e-5 of the largest logit, or to four
    times what float32 is wrong by in the network (see ``full_network``).
    """

    def __init__(self, file: OnnxFile, network: fx.GraphModule) -> None:
        super().__init__()
        self.file, self.network = file, network

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``[N, C, H, W]`` to logits ``[N, K]``."""
        followed = not isinstance(x, Tensor)
        if followed and self.file.form.whole:
            raise TypeError("its input are bytes, and bounds of unrounded pixels say nothing of rounded ones")
        logits: Tensor = self.network(x) if followed or torch.is_grad_enabled() else self.file(x)
        return logits


def file_of(network: nn.Module) -> OnnxFile | None:
    """Return the ONNX file that a network is, alone or with its torch network; None for any other."""
    return network.file if isinstance(network, OnnxNetwork) else network if isinstance(network, OnnxFile) else None


def lacking_of(network: nn.Module) -> str:
    """Return why an ONNX file has no gradients, in brackets behind its name; nothing for what has them."""
    return f" ({network.lacking})" if isinstance(network, OnnxFile) and network.lacking else ""


def in_torch(model: Classifier) -> Classifier:
    """Return the torch network of an ONNX file alone, on the same device, normalised as the file is; it shares weights.

    Raises ``TypeError`` for a classifier that has none.
    """
    if not isinstance(model.backbone, OnnxNetwork):
        raise TypeError(f"expected an ONNX file with its torch network, got {type(model.backbone).__name__}")
    mean, std = (part.flatten().tolist() if model.normalises else () for part in (model.mean, model.std))
    return Classifier(model.backbone.network, model.signature, mean=mean, std=std).to(model.mean.device).eval()


def full_network(file: OnnxFile, signature: Signature) -> OnnxNetwork | OnnxFile:
    """Return a file with its torch network for images of a signature.

    It is the file alone where something of it has no form in torch, or where the torch network answers something else;
    the file's ``lacking`` says what. Raises ``InputError`` where the file is for other images.
    """
    file.form.check(signature, file.where)
    x = _trial_images(signature)
    expected = [file(images) for images in (x, x[:1])]  # first, as it runs within bounds of time and memory
    try:
        network = convert(file.body, file.form, signature, where=file.where)
        check_parity(network, x, expected)
    except Unconverted as problem:
        file.lacking = one_line(str(problem), 300)
        return file
    return OnnxNetwork(file, network)


def convert(body: bytes, form: ImageLayout, signature: Signature, *, where: str) -> fx.GraphModule:
    """Return the torch network of a graph that takes images in this form; it takes pixels ``[N, C, H, W]`` in [0, 1].

    Raises ``Unconverted``, naming the operator, where something has no form in torch.
    """
    return write_network(body, lambda writer: _arrange(writer, form, signature), where=where)


def write_network(body: bytes, begun: Callable[[GraphWriter], NodeOutput], *, where: str) -> fx.GraphModule:
    """Return the torch network of a graph whose input is the layer that ``begun`` writes first; or ``Unconverted``."""
    onnx = package("onnx", extra="export", where=where)
    with parsing(where, "an ONNX file"):
        model = onnx.load_model_from_string(body)
    if model.functions:
        try:
            model = import_module("onnx.inliner").inline_local_functions(model)
        except Exception as problem:  # whatever a function says that onnx does not take
            raise Unconverted(f"its functions cannot be written out ({describe_exception(problem)})") from problem
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)
    if not LOWEST <= opset <= HIGHEST:
        raise Unconverted(f"operator set {opset} is not one of {LOWEST} to {HIGHEST}")
    graph = model.graph
    values: dict[str, Value] = {each.name: _tensor(onnx, each) for each in graph.initializer}
    (image,) = (each.name for each in graph.input if each.name not in values)
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(each.name for each in graph.output)
    writer = GraphWriter()
    values[image] = begun(writer)
    for node in graph.node:
        known = [values.get(name) if name else None for name in node.input]
        inputs = [name for name, value in zip(node.input, known, strict=True) if name and isinstance(value, NodeOutput)]
        operation = Operation(
            kind=node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}",
            name=node.name,
            attributes={each.name: _attribute(onnx, each) for each in node.attribute},
            inputs=known,
            opset=opset,
            alone=all(readers[name] == 1 for name in inputs),
        )
        if any(readers[name] for name in node.output[1:]):
            operation.refuse("with more than one output")
        try:
            values[node.output[0]] = translate(writer, operation)
        except (Unconverted, MemoryError):
            raise
        except Exception as problem:  # whatever a graph says that torch does not take
            raise Unconverted(
                f"operator {operation.kind} (node {node.name!r}): {describe_exception(problem)}"
            ) from problem
    logits = values.get(graph.output[0].name)
    if not isinstance(logits, NodeOutput):
        raise Unconverted("its output does not depend on the images")
    return writer.finish(logits)


def _arrange(writer: GraphWriter, form: ImageLayout, signature: Signature) -> NodeOutput:
    """Return the images as the file takes them, the layer that its operators begin with."""
    x = writer.begin((signature.channels, signature.height, signature.width))
    if form.whole:
        x = writer.call(torch.mul, x, 255.0)
    if form.layout == "nhwc":
        x = NodeOutput(node=x.node, like=x.like, axes=(0, 2, 3, 1))
    return writer.shaped(x, form.sizes)


def _tensor(onnx: Any, tensor: Any) -> Tensor:
    try:
        return torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
    except Exception as problem:  # a type that torch has not
        raise Unconverted(f"weights {tensor.name!r} have no form in torch ({describe_exception(problem)})") from problem


def _rounding(network: nn.Module, x: Tensor) -> float:
    """Return by how much the network's logits for ``x`` in float32 differ from those in float64, at most."""
    with torch.no_grad():
        return float((deepcopy(network).double()(x.double()) - network(x)).abs().max())


def _attribute(onnx: Any, attribute: Any) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    return _tensor(onnx, value) if isinstance(value, onnx.TensorProto) else value


def _trial_images(signature: Signature) -> Tensor:
    """Return drawn images ``[4, C, H, W]`` of bytes: two of noise, a blank one and one of low contrast."""
    shape = (signature.channels, signature.height, signature.width)
    drawn = torch.randint(256, (4, *shape), generator=torch.Generator().manual_seed(0))
    drawn[2], drawn[3] = 0, drawn[3] // 8 + 112
    return drawn.float() / 255


def check_parity(network: nn.Module, x: Tensor, expected: Sequence[Tensor]) -> None:
    """Raise ``Unconverted`` where a network answers otherwise than ``expected``, on all inputs and on the first."""
    for images, wanted in zip((x, x[:1]), expected, strict=True):
        try:
            with torch.no_grad():
                answers = network(images)
        except Exception as problem:
            if ran_out(problem):
                raise
            raise Unconverted(f"its torch network raised {describe_exception(problem)}") from problem
        if answers.shape != wanted.shape:
            raise Unconverted(f"its torch network returns {list(answers.shape)}, the file {list(wanted.shape)}")
        scale = float(wanted.abs().max())
        away = float((answers - wanted).abs().max())
        if not away <= _SAME * scale and not away <= min(4 * _rounding(network, images), _MOST * scale):
            raise Unconverted(f"its torch network differs by {away / max(scale, 1e-30):.1e} of the largest logit")

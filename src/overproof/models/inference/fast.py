"""A copy of a network that answers nearly the same and faster: for searching, never for deciding."""

from collections.abc import Callable
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from typing_extensions import override

from overproof.models.classifier import Classifier, linear_layer
from overproof.models.inference.frozen import FrozenConv2d
from overproof.models.layout import lay_out, memory_format


class Fast(nn.Module):
    """A frozen copy of a classifier in eval mode: BatchNorm folded into convolutions, channels last, maybe bf16.

    The last linear layer stays in float32, so that nearby images do not get equal logits.
    """

    def __init__(self, model: Classifier, precision: Literal["fp32", "bf16"]) -> None:
        super().__init__()
        self._normalised = deepcopy(model).requires_grad_(False).eval()
        backbone = fold_batchnorm(self._normalised.backbone)
        if precision == "bf16":
            self._dtype, backbone = torch.bfloat16, _in_bfloat16(backbone)
        else:
            self._dtype, backbone = torch.float32, backbone.float()
        for name, module in list(backbone.named_modules()):
            if isinstance(module, nn.Conv2d) and FrozenConv2d.suits(module):
                replace_module(backbone, name, FrozenConv2d(module))
        self._layout = memory_format(model)
        self._backbone = backbone
        lay_out(self._layout, backbone)
        self._normalised.backbone = nn.Identity()

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]`` in float32."""
        inputs = self._normalised.normalised(x).to(self._dtype, memory_format=self._layout)
        logits: Tensor = self._backbone(inputs)
        return logits.float()


def fold_batchnorm(network: nn.Module) -> nn.Module:
    """Return the network in eval mode with each BatchNorm that directly follows a convolution folded into it.

    A ReLU that is flattened comes after that (``flatten_first``). A network that cannot be traced (its control flow
    depends on its input) is returned as it is. The network itself is not changed, but the copy may share its tensors.
    """
    graph = trace_or_none(network)
    if graph is None:
        return network
    fuse_norms(graph, lambda convolution, norm: fuse_conv_bn_eval(convolution.eval(), norm.eval()))
    flatten_first(graph)
    return graph


def trace_or_none(network: nn.Module) -> fx.GraphModule | None:
    """Return a network's graph, which shares its modules; None where no trace can follow it."""
    try:
        return fx.symbolic_trace(network)
    except Exception:  # whatever a foreign forward does with a proxy
        return None


def fuse_norms(graph: fx.GraphModule, fuse: Callable[[nn.Conv2d, nn.BatchNorm2d], nn.Module | None]) -> None:
    """Put what ``fuse`` makes of them in the place of a convolution and the BatchNorm that directly follows it.

    In place, wherever both are used once, and ``fuse`` makes something of them.
    """
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = modules[str(before.target)], modules[str(node.target)]
        shared = [str(other.target) for other in graph.graph.nodes if other.op == "call_module"]
        if (
            isinstance(convolution, nn.Conv2d)
            and isinstance(norm, nn.BatchNorm2d)
            and norm.running_mean is not None
            and shared.count(str(before.target)) == shared.count(str(node.target)) == 1
            and (fused := fuse(convolution, norm)) is not None
        ):
            modules[str(before.target)] = fused  # a second BatchNorm that follows belongs to this one
            replace_module(graph, str(before.target), fused)
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()


class _ExactLinear(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = deepcopy(linear).float()

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.float())  # type: ignore[no-any-return]


def _in_bfloat16(network: nn.Module) -> nn.Module:
    """Convert all of the network but its last linear layer, which goes on computing in float32."""
    last = linear_layer(network)
    (name,) = [name for name, module in network.named_modules() if module is last]
    exact = _ExactLinear(last)  # a copy, made before its weights would be rounded
    if not name:
        return exact
    network.to(torch.bfloat16)
    replace_module(network, name, exact)
    return network


def flatten_first(graph: fx.GraphModule) -> None:
    """Let a ReLU whose output is flattened, and used for nothing else, work on what is flattened already; in place.

    The numbers are the same. But a gradient comes back from flattened images in another layout than channels last, and
    a ReLU that meets two layouts is slow (``benchmarks still``, the convnet).
    """
    modules = dict(graph.named_modules())
    for flatten in list(graph.graph.nodes):
        relu = flatten.args[0] if flatten.op == "call_module" and flatten.args else None
        if not isinstance(relu, fx.Node) or relu.op != "call_module" or len(relu.users) > 1:
            continue
        first, second = modules[str(relu.target)], modules[str(flatten.target)]
        # In place, it would change what it is given for others as well.
        if isinstance(first, nn.ReLU) and not first.inplace and isinstance(second, nn.Flatten):
            flatten.replace_all_uses_with(relu)
            flatten.args, relu.args = relu.args, (flatten,)
            relu.prepend(flatten)
    graph.graph.lint()
    graph.recompile()


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another one, by its dotted name."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)

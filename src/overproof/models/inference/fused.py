"""A network fused while it is attacked: the same answers in fewer operations."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from overproof.models.classifier import Classifier
from overproof.models.inference.cuda_graph import CUDAGraphRunner
from overproof.models.inference.fast import flatten_first, fuse_norms, replace_module, trace_or_none
from overproof.models.inference.frozen import FrozenConv2d
from overproof.models.mode import in_mode


@contextmanager
def fused_for_attack(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode, and let every ``Classifier`` in it answer by its ``FusedNetwork``, until leaving.

    The weights must not change meanwhile. No gradient reaches those of convolutions; the one to the pixels is right.
    """
    with in_mode(model, training=False), ExitStack() as until:
        for one in model.modules():
            # A compiler folds what it compiles, and would compile again whenever the stand-in comes and goes.
            if isinstance(one, Classifier) and one._compiled_call_impl is None:
                until.enter_context(_answering_fused(one))
        yield


def use_cuda_graphs(model: nn.Module) -> None:
    """From now on, let every ``Classifier`` in a model on CUDA be asked by CUDA graphs while it is fused."""
    for one in model.modules():
        if isinstance(one, Classifier):
            _forms[one] = FusedNetwork(one.backbone, replayed=True)


@contextmanager
def _answering_fused(model: Classifier) -> Iterator[None]:
    if model not in _forms:
        _forms[model] = FusedNetwork(model.backbone)
    form = _forms[model]
    before, model.fused_form = model.fused_form, form if form.fetch() else None
    try:
        yield
    finally:
        model.fused_form = before


class FusedNetwork:
    """A backbone as a search asks it: every BatchNorm folded into the convolution before it, and the gradient of a
    convolution's input computed as a forward convolution.

    Made once for a backbone in eval mode, whose modules it shares but for those convolutions; their weights are those
    of the last ``fetch``. No module of its own: it is neither saved nor trained. ``replayed`` asks it by CUDA graphs.
    """

    def __init__(self, backbone: nn.Module, *, replayed: bool = False) -> None:
        self._pairs: list[tuple[FrozenConv2d, nn.Conv2d, nn.BatchNorm2d | None]] = []
        self._replay: CUDAGraphRunner | None = None
        if not any(isinstance(module, nn.Conv2d) for module in backbone.modules()):
            return
        graph = trace_or_none(backbone)
        # Without a graph it answers itself, as with a tensor of its own, which may be replaced behind the graph's back.
        if graph is None or any(node.op == "get_attr" for node in graph.graph.nodes):
            return
        self._graph = graph
        fuse_norms(self._graph, self._folded)
        flatten_first(self._graph)
        for name, module in list(self._graph.named_modules()):
            if isinstance(module, nn.Conv2d) and FrozenConv2d.suits(module):
                replace_module(self._graph, name, self._frozen(module))
        if replayed:
            self._replay = CUDAGraphRunner(self._graph)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map normalised images ``[N, C, H, W]`` to logits ``[N, K]``."""
        logits: Tensor = (self._replay or self._graph)(inputs)
        return logits

    @torch.no_grad()
    def fetch(self) -> bool:
        """Take over the weights as they are, in the precision they are used in; return whether there are any."""
        for frozen, convolution, norm in self._pairs:
            weight, bias = convolution.weight, convolution.bias
            if norm is not None:
                # ``fuse_norms`` asks for both statistics.
                mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
                weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, norm.weight, norm.bias)
            # Autocast would round them again in every pass: it remembers what it rounded of parameters only.
            dtype = torch.bfloat16 if torch.is_autocast_enabled(weight.device.type) else weight.dtype
            frozen.take(
                weight.detach().to(dtype),
                None if bias is None else bias.detach().to(dtype),
                in_place=self._replay is not None,
            )
        if self._replay is not None:
            self._replay.renew()
        return bool(self._pairs)

    def _folded(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> FrozenConv2d | None:
        return self._frozen(convolution, norm) if convolution.padding_mode == "zeros" else None

    def _frozen(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> FrozenConv2d:
        frozen = FrozenConv2d(convolution)
        self._pairs.append((frozen, convolution, norm))
        return frozen


# Attacks know a model and not who runs them, so a model's fused form is kept beside it: every search of a run uses the
# same one. It is not in the model, whose copies and state must not hold it; weak, so that it ends with the model.
_forms: WeakKeyDictionary[Classifier, FusedNetwork] = WeakKeyDictionary()

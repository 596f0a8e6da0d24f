"""The one wrapper around every network: pixels in [0, 1] in, logits (and the penultimate representation) out."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from overproof.models.architectures.architecture import Backbone
from overproof.signature import Signature


class Classifier(nn.Module):
    """A network that takes pixels ``[N, C, H, W]`` in [0, 1]; its normalisation is its first layer.

    ``representation`` names the linear layer whose input that is, in a network that is not ours.

    Wraps any ``nn.Module`` that maps images to logits ``[N, K]``. Logits leave in at least float32, so that losses and
    perturbations are computed there whatever the precision of the layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        signature: Signature,
        *,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        representation: str = "",
    ) -> None:
        super().__init__()
        channels = signature.channels
        if bool(mean) != bool(std) or any(len(part) not in (0, channels) for part in (mean, std)):
            raise ValueError(f"mean and std need one number per channel ({channels}), got {mean} and {std}")
        if any(deviation <= 0 for deviation in std):
            raise ValueError(f"std must be positive, got {std}")
        self.signature = signature
        self.normalises = bool(mean)
        # Four dimensions, because bound propagation treats a constant by its shape.
        self.register_buffer("mean", torch.tensor(mean or [0.0] * channels).reshape(1, channels, 1, 1))
        self.register_buffer("std", torch.tensor(std or [1.0] * channels).reshape(1, channels, 1, 1))
        self.backbone = backbone
        self.representation = representation
        # While it is attacked (``inference.fused``), another form of the backbone answers.
        self.fused_form: Callable[[Tensor], Tensor] | None = None

    def normalised(self, x: Tensor) -> Tensor:
        """Return ``(x - mean) / std`` for pixels ``[N, C, H, W]``, or ``x`` itself where nothing is normalised."""
        return (x - self.mean) / self.std if self.normalises else x

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]``."""
        return _at_least_float32((self.fused_form or self.backbone)(self._inputs(x)))

    def _inputs(self, x: Tensor) -> Tensor:
        """Return what the backbone is given: a network that is not ours may write into it, so that gets a copy.

        Tracers, whose stand-ins are no plain tensors, see no copying.
        """
        inputs = self.normalised(x)
        load_external = not isinstance(self.backbone, Backbone)
        return inputs.clone() if load_external and inputs is x and type(x) is Tensor else inputs

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[N, K]`` and the penultimate representation ``[N, F]`` of one forward pass.

        For a network that is not ours the representation is the input of its last linear layer, or of the named one.
        """
        inputs = self._inputs(x)
        if isinstance(self.backbone, Backbone):
            hidden = self.backbone.embed(inputs)
            return _at_least_float32(self.backbone.head(hidden)), _at_least_float32(hidden)
        seen: list[Tensor] = []
        handle = linear_layer(self.backbone, self.representation).register_forward_pre_hook(
            lambda _, args: seen.append(args[0])
        )
        try:
            logits = self.backbone(inputs)
        finally:
            handle.remove()
        return _at_least_float32(logits), _at_least_float32(seen[-1].flatten(1))

    @property
    def head(self) -> nn.Linear:
        """The linear layer over the representation, ``[N, F] -> [N, K]`` in every network of ours."""
        if isinstance(self.backbone, Backbone):
            return self.backbone.head
        return linear_layer(self.backbone, self.representation)


def linear_layer(network: nn.Module, name: str = "") -> nn.Linear:
    """Return the linear layer of this name, or the last one in definition order.

    Raises ``ValueError`` where there is none.
    """
    if name:
        named = dict(network.named_modules()).get(name)
        if not isinstance(named, nn.Linear):
            raise ValueError(f"{type(network).__name__} has no linear layer {name!r}")
        return named
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(f"{type(network).__name__} has no linear layer, so it has no penultimate representation")
    return layers[-1]


def _at_least_float32(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor):  # what a tracer puts in its place has no type to ask for
        return tensor
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def parameter_count(model: nn.Module) -> int:
    """Return the number of learnable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())

"""Images, labels and a network of a user's: what must hold of them, and how a search asks the network."""

from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from overproof.attacks.objectives import Logits
from overproof.errors import InputError
from overproof.memory import ran_out

_ROUNDING = 1e-6  # how far a pixel may leave [0, 1]
_HALF = (torch.float16, torch.bfloat16)
_WRITES = "is being used in an in-place operation"  # what torch says of a leaf that needs a gradient


def check_images(x: Tensor, *, least_dimensions: int = 2) -> None:
    """Raise ``InputError`` unless ``x`` is a batch of floating-point pixels in [0, 1]; it may be empty."""
    if not isinstance(x, Tensor):
        raise InputError(f"the images x must be a tensor [N, C, H, W], got an object of type {type(x).__name__}")
    if not x.is_floating_point():
        advice = "; divide by 255" if x.dtype == torch.uint8 else ""
        raise InputError(f"pixels must be floating-point numbers in [0, 1], got {x.dtype}{advice}")
    if x.dim() < least_dimensions:
        raise InputError(f"the images must be [N, C, H, W], got {list(x.shape)}; one image x is a batch as x[None]")
    if not x.numel():
        return
    low, high = (float(end) for end in x.detach().aminmax())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN is in no range either
        if low != low or high != high:
            raise InputError("some pixels are not numbers (NaN)")
        advice = "divide by 255" if low >= 0 and 2 < high <= 255 else "make normalisation a layer of the model"
        raise InputError(f"pixels must lie in [0, 1], these span [{low:g}, {high:g}]; {advice}")


def check_label_tensor(y: Tensor, x: Tensor, *, what: str = "labels") -> None:
    """Raise ``InputError`` unless ``y`` holds one integer per example of ``x``."""
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        kind = y.dtype if isinstance(y, Tensor) else f"an object of type {type(y).__name__}"
        raise InputError(f"the {what} must be integers [N], the number of each image's class, got {kind}")
    if y.shape != x.shape[:1]:
        raise InputError(f"{len(x)} images need as many {what} [N], got {list(y.shape)}")


def working_pixels(x: Tensor) -> Tensor:
    """Return pixels in which a perturbation is computed: those of ``x``, in at least float32, without a graph."""
    pixels = x.detach()
    if pixels.is_inference():
        pixels = pixels.clone()
    # A pixel may be outside by rounding alone; the ball around it should lie in [0, 1] exactly.
    return (pixels.float() if pixels.dtype in _HALF else pixels).clamp(0, 1)


def like_pixels(pixels: Tensor, x: Tensor) -> Tensor:
    """Return what was found as the images ``x`` are: their dtype, and their memory format."""
    return pixels.to(x.dtype, memory_format=memory_format(x))


def memory_format(x: Tensor) -> torch.memory_format:
    """Return ``channels_last`` for images that are kept so, else ``preserve_format``."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.preserve_format


class AskedNetwork(nn.Module):
    """A network of a user's as a search asks it: from pixels in at least float32 to logits of their dtype and device.

    It is called with images of the dtype and memory format of ``x``, exactly as its user would call it; where it fails
    on these and its weights have another dtype, with images of that dtype. Its first answer is checked. A network that
    writes into its input gets copies. ``gradients`` says that a search without gradients to the pixels is pointless.
    """

    def __init__(self, network: Logits, x: Tensor, *, gradients: bool) -> None:
        super().__init__()
        if isinstance(network, type) or not callable(network):
            raise InputError(f"the model must be an nn.Module or a function of pixels, got {_thing(network)}")
        self.network: Any = network
        self._dtype, self._format, self._gradients = x.dtype, memory_format(x), gradients
        self._seen: set[bool] = set()  # with a gradient, and without one
        self._copies = False
        self._classes: list[tuple[str, Tensor]] = []
        for weight in network.parameters() if isinstance(network, nn.Module) else ():
            if weight.device != x.device:
                raise InputError(f"the model is on {weight.device} and the images on {x.device}; move one of them")
            break

    def check_classes(self, labels: Tensor, target: Tensor | None = None) -> None:
        """Let the first answer also be checked against these classes, int64 ``[N]``; raise ``InputError``."""
        self._classes = [("label", labels)] + ([] if target is None else [("target", target)])
        if target is not None and (same := int((labels == target).sum())):
            raise InputError(f"the target of {same} of {len(labels)} images is their own label")

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Map pixels ``[N, C, H, W]`` to logits ``[N, K]``."""
        if torch.is_grad_enabled() not in self._seen:
            return self._first(x)
        given = self._as_wanted(x)
        logits: Tensor = self.network(given.clone() if self._copies and given is x else given)
        return logits.to(x)

    def _as_wanted(self, x: Tensor) -> Tensor:
        return x.to(self._dtype, memory_format=self._format)

    def _first(self, x: Tensor) -> Tensor:
        """Ask for the first time with, or without, a gradient, and check everything about the answer."""
        logits, given, version = self._tried(x)
        if not isinstance(logits, Tensor):
            advice = "; return its .logits" if hasattr(logits, "logits") else ""
            raise InputError(f"the model must return logits [N, K] as one tensor, got {_thing(logits)}{advice}")
        if logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] < 2 or not logits.is_floating_point():
            raise InputError(
                f"{len(x)} images must give floating-point logits [{len(x)}, K] with K at least 2, the model returns "
                f"{logits.dtype} {list(logits.shape)}"
            )
        if wild := int((~logits.detach().isfinite()).any(dim=1).sum()):
            raise InputError(f"the model's logits of {wild} of {len(x)} images are not finite numbers")
        for what, classes in self._classes:
            low, high = int(classes.amin()), int(classes.amax())
            if low < 0 or high >= logits.shape[1]:
                raise InputError(
                    f"{what} {low if low < 0 else high} is outside 0..{logits.shape[1] - 1}, the model's "
                    f"{logits.shape[1]} logits"
                )
        if self._gradients and torch.is_grad_enabled() and not _depends(logits, given):
            raise InputError(
                "the attack needs gradients and the model gives none to the pixels; use Square or HopSkipJump"
            )
        if given is x and given._version != version:
            raise InputError("the model writes into the images that it is given; let it work on a copy")
        self._copies = self._copies or given._version != version
        self._seen.add(torch.is_grad_enabled())
        return logits.to(x)

    def _tried(self, x: Tensor) -> tuple[Any, Tensor, int]:
        """Return an answer, what was given for it (the pixels or a copy), and its version from before."""
        given = self._as_wanted(x)
        # A compiler wants a leaf, and nobody writes into one that needs a gradient.
        leaf = given.requires_grad and given.is_leaf
        if given is x and (self._copies or not leaf):
            given = given.clone()
        version = given._version
        try:
            return self.network(given), given, version
        except InputError:
            raise
        except Exception as problem:
            if ran_out(problem):
                raise
            if given is x and _WRITES in str(problem):
                self._copies = True
                return self._tried(x)
            others = {weight.dtype for weight in self.parameters() if weight.is_floating_point()} - {self._dtype}
            if len(others) == 1:
                self._dtype = others.pop()
                return self._tried(x)
            said = shorten(f"{type(problem).__name__}: {problem}", 200, placeholder=" ...")
            raise InputError(f"given images {list(given.shape)} of {given.dtype}, the model raised {said}") from problem


def _depends(logits: Tensor, given: Tensor) -> bool:
    """Tell whether a gradient finds its way from the logits to what the network was given."""
    if not given.requires_grad:
        return True
    waiting = [logits.grad_fn]
    seen = set(waiting)
    while waiting:
        step = waiting.pop()
        if step is not None and (step is given.grad_fn or getattr(step, "variable", None) is given):
            return True
        fresh = {before for before, _ in step.next_functions if before is not None} - seen if step else set()
        seen |= fresh
        waiting += fresh
    return False


def _thing(value: object) -> str:
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else f"an object of type {type(value).__name__}"

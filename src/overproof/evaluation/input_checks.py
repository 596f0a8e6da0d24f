"""What must hold before an attack is worth its time: pixels, labels and logits that mean something, and gradients."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from overproof.errors import InputError
from overproof.evaluation.answers import is_guessing, majority_share
from overproof.models.classifier import Classifier
from overproof.models.mode import in_mode
from overproof.statistics import Proportion

_ROUNDING = 1e-6  # how far a pixel may leave [0, 1]
_SUM = 1e-3  # how far probabilities may miss 1
_PROBES = 8  # examples for a question whose answer does not depend on how many are asked


def admit(model: nn.Module, x: Tensor, y: Tensor | None, *, where: str) -> tuple[str, ...]:
    """Return warnings about a network on its first batch, pixels ``x`` ``[N, C, H, W]`` and labels ``y`` int64 ``[N]``.

    ``where`` names the network in every sentence. The model is in eval mode meanwhile. Raises ``InputError`` for
    pixels outside [0, 1], labels that are missing or outside the classes, logits that are not finite numbers
    ``[N, K]``, probabilities instead of logits, and a network that wants normalised pixels. Warns where no clean
    image is classified correctly, where the accuracy is that of guessing, and where normalised pixels do better but
    that may be due to the images. Log-probabilities are logits: their softmax is what they are the logarithm of.
    """
    labels = _check_batch(x, y, where)
    with in_mode(model, training=False), torch.no_grad():
        logits = model(x)
        _check_logits(model, logits, labels, where)
        _refuse_probabilities(model, x, logits, where)
        right = logits.argmax(dim=1) == labels
        chance = max(1 / logits.shape[1], majority_share(labels))
        better = _better_normalised(model, x, labels, right, chance)
    clean = Proportion(claim="correct on clean images", passed=int(right.sum()), of=len(labels))
    if better is not None:
        return (_normalisation_sentence(better, clean, chance, x, where),)
    if clean.passed == 0:
        return (f"{where}: none of {clean.of} clean images is classified correctly; are the labels in its order?",)
    if is_guessing(clean, chance):
        return (
            f"{where}: {clean.passed} of {clean.of} clean images are classified correctly, which is no better than "
            f"always answering the most frequent class ({chance:.1%})",
        )
    return ()


def gradients_of(model: nn.Module, x: Tensor) -> bool:
    """Tell whether the network computes with gradients at all, on at most eight images, in eval mode.

    One whose logits carry no graph (it runs elsewhere, or under ``no_grad``) gives none. Gradients that exist and are
    zero in the pixels are another matter: an attack runs, and the reliability verdict says what it is worth.
    """
    frozen = [weight for weight in model.parameters() if weight.is_floating_point() and not weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_()
        with in_mode(model, training=False), torch.enable_grad():
            logits = model(x[:_PROBES].detach().requires_grad_())
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    return bool(logits.requires_grad)


def need_gradients(attack: str, model: nn.Module, x: Tensor, *, where: str) -> None:
    """Raise ``InputError`` where an attack that follows gradients is asked of a network that gives none."""
    if not gradients_of(model, x):
        raise InputError(
            f"{attack} needs gradients and {where} gives none; use square, hopskipjump or, from another network, a "
            f"transfer attack such as transfer-mi-fgsm"
        )


# --- the batch and the logits -----------------------------------------------------------------------------------------


def _check_batch(x: Tensor, y: Tensor | None, where: str) -> Tensor:
    if x.dim() != 4 or not x.is_floating_point():
        raise InputError(f"{where}: expected floating-point pixels [N, C, H, W], got {x.dtype} {list(x.shape)}")
    if x.numel() == 0:
        raise InputError(f"{where}: there are no images to evaluate it on, the batch is {list(x.shape)}")
    if y is None:
        raise InputError(f"{where}: there are no labels; an attack needs the right class of every image")
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise InputError(f"{where}: {len(x)} images need as many int64 labels, got {y.dtype} {list(y.shape)}")
    if not x.isfinite().all():
        raise InputError(f"{where}: some pixels are not finite numbers")
    low, high = float(x.amin()), float(x.amax())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        advice = "divide by 255" if low >= 0 and high <= 255 else "make normalisation a layer of the network"
        raise InputError(f"{where}: pixels must lie in [0, 1], these span [{low:g}, {high:g}]; {advice}")
    return y


def _check_logits(model: nn.Module, logits: Tensor, y: Tensor, where: str) -> None:
    if not isinstance(logits, Tensor):
        raise InputError(f"{where}: it must return logits [N, K], got an object of type {type(logits).__name__}")
    if logits.dim() != 2 or len(logits) != len(y) or logits.shape[1] < 2 or not logits.is_floating_point():
        raise InputError(
            f"{where}: {len(y)} images must give floating-point logits [{len(y)}, K] with K at least 2, got "
            f"{logits.dtype} {list(logits.shape)}"
        )
    classes = logits.shape[1]
    if isinstance(model, Classifier) and classes != model.signature.classes:
        raise InputError(f"{where}: it returns {classes} logits, but it is for {model.signature}")
    wild = int((~logits.isfinite()).any(dim=1).sum())
    if wild:
        raise InputError(f"{where}: the logits of {wild} of {len(y)} examples are not finite")
    low, high = int(y.amin()), int(y.amax())
    if low < 0 or high >= classes:
        raise InputError(f"{where}: label {low if low < 0 else high} is outside 0..{classes - 1}, its {classes} logits")


def _refuse_probabilities(model: nn.Module, x: Tensor, logits: Tensor, where: str) -> None:
    # A classifier returns float32 whatever its layers computed in, so the pixels tell how coarse a sum may be.
    slack = max(_SUM, torch.finfo(x.dtype).eps / 2, torch.finfo(logits.dtype).eps / 2)
    few = x[:_PROBES]
    # Logits may add up to 1 once, but not on other inputs as well: negatives and faded images.
    if _are_probabilities(logits, slack) and _are_probabilities(model(torch.cat([1 - few, few / 2])), slack):
        raise InputError(
            f"{where}: it returns probabilities, on which attacks saturate and robustness looks better than it is; "
            f"return logits: leave the softmax out"
        )


def _are_probabilities(rows: Tensor, slack: float) -> bool:
    return bool((rows >= 0).all() and ((rows.double().sum(dim=1) - 1).abs() <= slack).all())


# --- normalisation ----------------------------------------------------------------------------------------------------

_PUBLISHED: dict[int, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    1: {"MNIST": ((0.1307,), (0.3081,))},
    3: {
        "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    },
}
# Measured on networks of three data sets: those trained on [0, 1] never gained 20 points on ordinary images; those
# trained on normalised ones gained 22 to 84. On dark or flat images, which a batch's own statistics repair, honest
# networks gained as much: hence a refusal asks for more than a gain.
_GAIN = 0.2  # share of examples
_DEVIATIONS = 5.0
_WORKS = 0.5  # accuracy at which a network surely has found what it was trained on
_CONTRAST = 0.75  # range of a typical image; the median is 0.96 on CIFAR-10 and 1 on MNIST


class _Normalised(NamedTuple):
    """Statistics that make the network better; how many examples it then classifies correctly."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    passed: int


def _better_normalised(model: nn.Module, x: Tensor, y: Tensor, right: Tensor, chance: float) -> _Normalised | None:
    """Return the statistics under which the network is better beyond doubt, or None; published ones come first.

    ``chance`` is what one constant answer gets: a network that collapses under odd pixels is not better for it.
    """
    if int(right.sum()) >= (1 - _GAIN) * len(y):
        return None
    for group in (_common(x.shape[1]), _of_batch(x)):
        best: _Normalised | None = None
        for name, mean, std in group:
            now = model((x - _channels(mean, x)) / _channels(std, x)).argmax(dim=1) == y
            passed = int(now.sum())
            if _doubtless(right, now, chance) and (best is None or passed > best.passed):
                best = _Normalised(name, mean, std, passed)
        if best is not None:
            return best
    return None


def _doubtless(before: Tensor, after: Tensor, constant: float) -> bool:
    """Tell whether the same examples do better by far: McNemar's (1947) statistic on those whose verdict changed."""
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    if gained - lost <= _GAIN * len(before) or gained - lost <= _DEVIATIONS * math.sqrt(gained + lost):
        return False
    return Proportion(claim="correct", passed=int(after.sum()), of=len(after)).interval[0] > constant


def _common(channels: int) -> Iterator[tuple[str, tuple[float, ...], tuple[float, ...]]]:
    for name, (mean, std) in _PUBLISHED.get(channels, {}).items():
        yield f"the statistics of {name}", mean, std
    yield "pixels in [-1, 1]", (0.5,) * channels, (0.5,) * channels
    yield "pixels in [0, 255]", (0.0,) * channels, (round(1 / 255, 6),) * channels


def _of_batch(x: Tensor) -> Iterator[tuple[str, tuple[float, ...], tuple[float, ...]]]:
    deviation, mean = torch.std_mean(x.double(), dim=(0, 2, 3), correction=0)
    # A channel that hardly varies is not blown up beyond one grey level.
    std = deviation.clamp_min(1 / 255)
    yield (
        "the statistics of the batch",
        tuple(round(value, 4) for value in mean.tolist()),
        tuple(round(value, 4) for value in std.tolist()),
    )


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1)


def _normalisation_sentence(better: _Normalised, clean: Proportion, chance: float, x: Tensor, where: str) -> str:
    """Raise ``InputError`` where the network is to blame; return a warning where the images may be."""
    share = better.passed / clean.of
    numbers = f"mean={better.mean}, std={better.std}"
    sentence = (
        f"{where}: {clean.share:.1%} of {clean.of} clean images are classified correctly as they are, but {share:.1%} "
        f"under {better.name}"
    )
    flat = x.flatten(1).float()
    contrast = float((flat.amax(dim=1) - flat.amin(dim=1)).median())
    lost = clean.share - chance < (share - chance) / 2  # more than half of what it can do beyond guessing
    if lost and share >= _WORKS and contrast >= _CONTRAST:
        raise InputError(
            f"{sentence}, so it wants normalised inputs; make normalisation a layer, with the numbers it was trained "
            f"with, such as Classifier(backbone, signature, {numbers})"
        )
    return f"{sentence} ({numbers}); does it lack a normalisation layer, or are these images unusually dark or flat?"
